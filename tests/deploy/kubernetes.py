#!/usr/bin/env python3
"""The chart on a real Kubernetes: installed, upgraded, restarted, scaled, with pods killed, tested and taken away, with agents connected.

usage: kubernetes.py STATE BINARIES     inside the network namespace of the cluster that tests/deploy/cluster has started in STATE and
                                        tests/deploy/run has loaded with images; BINARIES has muster and musterctl

AGENTS     how many agents (1000)
"""

import atexit
import base64
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from harness import ROOT, Fleet, eventually, judge, run, say

STATE, BINARIES = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
AGENTS = int(os.environ.get("AGENTS", "1000"))
CHART = ROOT / "helm/muster"
WORK = Path(tempfile.mkdtemp(dir=STATE))
# What only a small node needs.
SMALL = {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "512Mi"}}
IMAGE = {"repository": "localhost/muster", "tag": "one", "pullPolicy": "Never"}
# Postgres and Redis that are not the chart's.
OUTSIDE = """
apiVersion: v1
kind: Secret
metadata: {name: postgres}
stringData: {password: from-outside}
---
apiVersion: v1
kind: Service
metadata: {name: postgres}
spec: {selector: {app: postgres}, ports: [{port: 5432}]}
---
apiVersion: v1
kind: Service
metadata: {name: redis}
spec: {selector: {app: redis}, ports: [{port: 6379}]}
---
apiVersion: v1
kind: Pod
metadata: {name: postgres, labels: {app: postgres}}
spec:
  containers:
    - name: postgres
      image: postgres:17-bookworm
      imagePullPolicy: Never
      env:
        - {name: POSTGRES_USER, value: muster}
        - {name: POSTGRES_DB, value: muster}
        - {name: POSTGRES_PASSWORD_FILE, value: /secret/password}
        - {name: PGDATA, value: /data/postgres}
      volumeMounts: [{name: secret, mountPath: /secret}, {name: data, mountPath: /data}]
  volumes: [{name: secret, secret: {secretName: postgres}}, {name: data, emptyDir: {}}]
---
apiVersion: v1
kind: Pod
metadata: {name: redis, labels: {app: redis}}
spec:
  containers:
    - {name: redis, image: "redis:7.2-bookworm", imagePullPolicy: Never, args: [redis-server, --save, "", --dir, /tmp, --protected-mode, "no"]}
"""
VALUES = {
    "image": IMAGE,
    "drainSeconds": 10,
    "gateway": {"maxConnections": 10000, "resources": SMALL, "drainPerSecond": 100},
    # A machine that is busy with other things, too, may leave a gateway without a processor for seconds.
    "configService": {"resources": SMALL, "settings": {"probe_timeout": "20s"}},
    "migration": {"resources": SMALL},
    "database": {"existingSecret": "outside-postgres"},
    "redis": {"existingSecret": "outside-redis"},
    "operatorToken": {"existingSecret": "outside-operator"},
}
OPERATOR_TOKEN = "muster_operator_of-the-cluster-tests-00000000000000000000000"


def kubectl(*arguments: object, namespace: str = "fleet", stdin: str | None = None) -> str:
    return run(STATE / "kubectl", "--namespace", namespace, *arguments, stdin=stdin)


def helm(command: str, release: str, *arguments: object, namespace: str = "fleet", stdin: str | None = None) -> str:
    flags = ["--kubeconfig", STATE / "admin.kubeconfig", "--namespace", namespace]
    return run("helm", command, release, *arguments, *flags, stdin=stdin)


def apply_values(command: str, values: dict, *arguments: object, release: str = "r", namespace: str = "fleet") -> None:
    waits = ["--wait", "--timeout", "8m", "--values", "-"]
    try:
        helm(command, release, CHART, *waits, *arguments, namespace=namespace, stdin=yaml.safe_dump(values))
    except AssertionError:
        print(kubectl("get", "pods,jobs", "-o", "wide", namespace=namespace), file=sys.stderr)
        print(kubectl("logs", "--prefix", "--tail=20", "-l", "app.kubernetes.io/name=muster", namespace=namespace), file=sys.stderr)
        raise


def objects(kind: str, selector: str = "", namespace: str = "fleet") -> list[dict]:
    return json.loads(kubectl("get", kind, "-o", "json", *(["-l", selector] if selector else []), namespace=namespace))["items"]


def component(name: str) -> str:
    return f"app.kubernetes.io/component={name}"


def service_address(name: str) -> str:
    spec = json.loads(kubectl("get", "service", name, "-o", "json"))["spec"]
    return f"{spec['clusterIP']}:{spec['ports'][0]['port']}"


def musterctl(*arguments: object, stdin: str | None = None) -> str:
    server = f"http://{service_address('r-muster-admin')}"
    return run(BINARIES / "musterctl", "--server", server, "--token", OPERATOR_TOKEN, *arguments, stdin=stdin)


class Load:
    """Agents that connect through the Service of the gateways."""

    def __init__(self, token: str, agents: int) -> None:
        self.result = WORK / "result.json"
        url = f"ws://{service_address('r-muster-gateway')}/v1/opamp"
        command = [BINARIES / "muster", "load", "--url", url, "--agents", agents, "--rate", "200", "--heartbeat", "10s"]
        self.log = open(WORK / "load.log", "wb")
        self.process = subprocess.Popen(
            [*map(str, command), "--json-file", str(self.result)],
            env={**os.environ, "MUSTER_AGENT_TOKEN": token},
            stdout=self.log,
            stderr=self.log,
        )
        # It goes with the test, whatever becomes of that.
        atexit.register(self.process.kill)

    def end(self) -> dict:
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(timeout=120)
        log = (WORK / "load.log").read_text()
        assert code == 0, f"the load generator ended with {code}: {log[-2000:]}"
        return json.loads(self.result.read_text())


class Logs:
    """What the gateways that run now say until they end."""

    def __init__(self) -> None:
        self.files = []
        for pod in objects("pods", component("gateway")):
            name = pod["metadata"]["name"]
            file = open(WORK / f"{name}.log", "w+")
            command = [str(STATE / "kubectl"), "--namespace", "fleet", "logs", "--follow", "--tail=1", name]
            self.files.append((name, file, subprocess.Popen(command, stdout=file, stderr=subprocess.DEVNULL)))

    def ended(self, how_many: int) -> str:
        """All that have gone have drained to the end, and were not killed before. How long that took."""
        gone = {name for name, _, _ in self.files} - {pod["metadata"]["name"] for pod in objects("pods", component("gateway"))}
        assert len(gone) == how_many, f"{gone} are gone, not {how_many}"
        took = []
        for name, file, process in self.files:
            if name not in gone:
                process.kill()
            process.wait(timeout=60)
            file.seek(0)
            text = file.read()
            lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
            ends = [line["seconds"] for line in lines if line["message"] == "drained"]
            assert len(ends) == (name in gone), f"{name}: {text[-2000:]}"
            took += ends
        return f"drained within {max(took):.0f} s"


def ctr(*arguments: object) -> str:
    return run("ctr", "-a", STATE / "containerd.sock", "-n", "k8s.io", *arguments)


def container(status: dict) -> str:
    return status["containerID"].removeprefix("containerd://")


def nobodys_rights(namespace: str, at_least: set[str]) -> None:
    """Every process of the release is somebody without rights, on a root file system that cannot be written."""
    processes = {line.split()[0]: line.split()[1] for line in ctr("tasks", "ls").splitlines()[1:]}
    seen = set()
    for pod in objects("pods", "app.kubernetes.io/instance=r", namespace=namespace):
        for status in pod["status"]["containerStatuses"]:
            if "running" not in status["state"]:
                continue
            name, process = f"{pod['metadata']['name']}/{status['name']}", Path("/proc") / processes[container(status)]
            facts = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
            assert "0" not in facts["Uid"].split() + facts["Gid"].split(), f"{name}: {facts['Uid']}, {facts['Gid']}"
            assert int(facts["CapEff"], 16) == int(facts["CapBnd"], 16) == 0, f"{name}: {facts['CapEff']}, {facts['CapBnd']}"
            assert facts["NoNewPrivs"].strip() == "1" and facts["Seccomp"].strip() == "2", f"{name}: {facts}"
            mounts = [line.split() for line in (process / "mountinfo").read_text().splitlines()]
            root = [mount[5].split(",") for mount in mounts if mount[4] == "/"]
            assert all("ro" in options for options in root), f"{name}: {root}"
            seen.add(pod["metadata"]["labels"]["app.kubernetes.io/component"])
    assert seen >= at_least, f"{namespace}: {seen}"


def kill(pod: dict) -> None:
    """As a crash: the process is gone, and the pod is started again where it was."""
    namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
    status = pod["status"]["containerStatuses"][0]
    restarts = status["restartCount"]
    ctr("tasks", "kill", "-s", "SIGKILL", container(status))

    def is_back() -> bool:
        status = json.loads(kubectl("get", "pod", name, "-o", "json", namespace=namespace))["status"]["containerStatuses"][0]
        return status["restartCount"] > restarts and status["ready"]

    eventually(f"{name} is back", is_back)


def namespaces() -> None:
    # Kubernetes itself refuses what would be root, or could become it.
    for name in ("data", "fleet", "trial"):
        kubectl("create", "namespace", name)
    for name in ("fleet", "trial"):
        kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted", "pod-security.kubernetes.io/warn=restricted")
    kubectl("apply", "-f", "-", namespace="data", stdin=OUTSIDE)
    for name, key, value in [
        ("postgres", "url", "postgres://muster:from-outside@postgres.data:5432/muster"),
        ("redis", "url", "redis://redis.data:6379"),
        ("operator", "token", OPERATOR_TOKEN),
    ]:
        kubectl("create", "secret", "generic", f"outside-{name}", f"--from-literal={key}={value}")


def golden_output_is_accepted() -> None:
    """By a real API server, strictly, and without a warning. What needs further kinds is left out."""
    further = ("monitoring.coreos.com/", "cert-manager.io/", "gateway.networking.k8s.io/")
    for file in sorted((ROOT / "tests/deploy/golden").glob("*.yaml")):
        items = [item for item in yaml.safe_load_all(file.read_text()) if item and not item["apiVersion"].startswith(further)]
        text = "---\n".join(yaml.safe_dump(item) for item in items)
        command = [STATE / "kubectl", "--namespace", "fleet", "apply", "--dry-run=server", "--validate=strict", "-f", "-"]
        result = subprocess.run(list(map(str, command)), input=text, capture_output=True, text=True)
        # Kubernetes 1.34.0 says so of every headless service, whatever it has.
        said = [line for line in result.stderr.splitlines() if line != "Warning: spec.SessionAffinity is ignored for headless services"]
        assert result.returncode == 0 and not said, f"{file.name}: {said}"


def life_of_a_release() -> None:
    apply_values("install", VALUES)
    nobodys_rights("fleet", {"gateway", "config-service"})
    say("installed")
    helm("test", "r", "--timeout", "5m", "--logs")
    say("helm test")
    token = musterctl("token", "create", "agent").strip()
    fleet = Fleet(musterctl, AGENTS)
    # `helm test` has left agents behind.
    for agent in json.loads(musterctl("get", "agents", "-o", "json")):
        musterctl("forget", "agent", agent["instance_uid"])

    load = Load(token, AGENTS)
    fleet.all_connected()
    fleet.apply("first")
    say(f"{AGENTS} agents have a configuration")

    logs = Logs()
    VALUES["image"] = {**IMAGE, "tag": "two"}
    values = WORK / "values.yaml"
    values.write_text(yaml.safe_dump(VALUES))
    command = ["helm", "upgrade", "r", str(CHART), "--wait", "--timeout", "8m", "--values", str(values)]
    upgrade = subprocess.Popen(
        [*command, "--kubeconfig", str(STATE / "admin.kubeconfig"), "--namespace", "fleet"], stdout=subprocess.DEVNULL
    )
    eventually("the upgrade has begun", lambda: len(objects("pods", component("gateway"))) > 3)
    eventually("a change can be made meanwhile", lambda: fleet.apply("during the upgrade") or True)
    assert upgrade.wait() == 0, "helm upgrade"
    images = {pod["spec"]["containers"][0]["image"] for pod in objects("pods", f"{component('gateway')}")}
    eventually("the last one has drained", lambda: len(objects("pods", component("gateway"))) == 3)
    assert "localhost/muster:two" in images, images
    drained = logs.ended(3)
    fleet.all_connected()
    say(f"upgraded, with a change on the way; {drained}")

    logs = Logs()
    kubectl("rollout", "restart", "deployment/r-muster-gateway")
    kubectl("rollout", "status", "deployment/r-muster-gateway", "--timeout=5m")
    eventually("the last one has drained", lambda: len(objects("pods", component("gateway"))) == 3)
    drained = logs.ended(3)
    fleet.apply("after the restart")
    say(f"restarted, one gateway after another; {drained}")

    logs = Logs()
    VALUES["gateway"]["replicas"] = 2
    apply_values("upgrade", VALUES)
    eventually("it has drained", lambda: len(objects("pods", component("gateway"))) == 2)
    logs.ended(1)
    fleet.apply("with two gateways")
    fleet.all_connected()
    result = load.end()
    judge(result, AGENTS, configurations=4)
    say(f"scaled down; agents reconnected {result['counts']['disconnects']} times, and none was asked for its full state")

    load = Load(token, AGENTS)
    # Other agents, which come beside those that have gone.
    both = Fleet(musterctl, AGENTS)
    both.all_connected()
    for selector, namespace in [
        (component("gateway"), "fleet"),
        (component("config-service"), "fleet"),
        ("app=redis", "data"),
        ("app=postgres", "data"),
    ]:
        kill(objects("pods", selector, namespace=namespace)[0])
        eventually("all agents are connected again", lambda: both.summary()["connected"] == AGENTS)
        say(f"killed and back: {selector}")
    result = load.end()
    assert result["connected"] == AGENTS and result["counts"]["renames"] == 0, result["counts"]

    helm("uninstall", "r", "--wait")
    # Those of `helm test` have ended, and are not the release's.
    running = lambda: [pod for pod in objects("pods") if pod["status"]["phase"] != "Succeeded"]
    eventually("nothing runs any more", lambda: not running())
    left = {item["metadata"]["name"] for item in objects("secrets")}
    assert left == {"outside-postgres", "outside-redis", "outside-operator", "r-muster-agent-token"}, left
    kinds = "deployments,services,jobs,configmaps,networkpolicies,poddisruptionbudgets,serviceaccounts"
    there = {item["metadata"]["name"] for item in objects(kinds)} - {"kube-root-ca.crt", "default"}
    assert not there, there
    say("uninstalled")


def trial() -> None:
    values = {"image": IMAGE, "trial": {"enabled": True, "postgres": {"storage": "", "pullPolicy": "Never", "resources": SMALL}}}
    values["trial"]["redis"] = {"pullPolicy": "Never", "resources": SMALL}
    values |= {"gateway": {"replicas": 1, "resources": SMALL}, "configService": {"resources": SMALL}, "migration": {"resources": SMALL}}
    secrets = lambda: {item["metadata"]["name"]: item["data"] for item in objects("secrets", "app.kubernetes.io/name=muster", "trial")}
    apply_values("install", values, namespace="trial")
    nobodys_rights("trial", {"gateway", "config-service", "postgres", "redis"})
    helm("test", "r", "--timeout", "5m", "--logs", namespace="trial")
    made = secrets()
    assert len(made) == 4, made.keys()
    apply_values("upgrade", {**values, "logLevel": "info,muster::bus=debug"}, namespace="trial")
    assert secrets() == made, "an upgrade keeps what was made"
    # As the notes say.
    fleet = kubectl("exec", "deployment/r-muster-config-service", "--", "musterctl", "fleet", "-o", "json", namespace="trial")
    assert json.loads(fleet)["bus_reachable"], fleet
    token = base64.b64decode(made["r-muster-operator-token"]["token"]).decode()
    assert token.startswith("muster_operator_") and len(token) > 50, "a token that nobody guesses"
    helm("uninstall", "r", "--wait", namespace="trial")
    say("the trial, with its own Postgres and Redis")


namespaces()
golden_output_is_accepted()
say("the API server accepts the golden output")
try:
    life_of_a_release()
    trial()
except AssertionError:
    # What Kubernetes has seen: a probe that failed, a container that it killed.
    print(kubectl("get", "events", "--all-namespaces", "--sort-by=.lastTimestamp")[-6000:], file=sys.stderr)
    raise
