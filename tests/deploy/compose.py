#!/usr/bin/env python3
"""docker-compose.yml in real containers: it comes up by itself, takes a load, and a gateway is restarted meanwhile.

usage: compose.py STATE     inside the network namespace of the engine that tests/deploy/engine has started in STATE, whose
                            images tests/deploy/run has loaded

AGENTS, RATE     how many agents, and how many connect a second (2000 and 200)
RESULTS          a folder in which is kept what the load generator and each panel of the dashboards showed
"""

import json
import os
import re
import shutil
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from pathlib import Path

from harness import ROOT, Fleet, eventually, judge, run, say

STATE = Path(sys.argv[1]).resolve()
AGENTS = int(os.environ.get("AGENTS", "2000"))
RESULTS = Path(os.environ["RESULTS"]).resolve() if os.environ.get("RESULTS") else None
NOFILE = min(131072, os.sysconf("SC_OPEN_MAX"))
# One load balancer has two files open for each agent. Several take turns at the name, each with ports of its own.
BALANCERS = 1 + (2 * AGENTS + 500) // NOFILE
os.environ.update(
    DOCKER_HOST=f"unix://{STATE}/docker.sock",
    AGENTS=str(AGENTS),
    RATE=os.environ.get("RATE", "200"),
    # It ends when the test says so.
    DURATION="1h",
    NOFILE=str(NOFILE),
    **({"OPAMP_PORT": f"4400-{4400 + BALANCERS}", "ADMIN_PORT": f"4500-{4500 + BALANCERS}"} if BALANCERS > 1 else {}),
)
# Grafana's image is not to be had without a registry of images: what it would ask for is asked for below.
SCALES = ["--scale", "grafana=0", "--scale", f"load-balancer={BALANCERS}"]


def compose(*arguments: object, stdin: str | None = None) -> str:
    return run("docker-compose", "--progress", "quiet", *arguments, stdin=stdin)


def musterctl(*arguments: object, stdin: str | None = None) -> str:
    return compose("exec", "-T", "config-service", "musterctl", *arguments, stdin=stdin)


def prometheus(query: str) -> list:
    url = f"http://127.0.0.1:9090/api/v1/query?query={urllib.parse.quote(query)}"
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)["data"]["result"]


def container(service: str) -> str:
    return f"muster-{service}-1"


FLEET = Fleet(musterctl, AGENTS)


def the_image() -> None:
    image = json.loads(run("docker", "image", "inspect", "muster:latest"))[0]["Config"]
    assert image["User"] == "65532:65532", image["User"]
    for role in ("standalone", "gateway", "config-service", "migrate", "load", "conformance", "healthcheck"):
        help_text = run("docker", "run", "--rm", "--read-only", "--network", "none", "muster:latest", role, "--help")
        assert f"muster {role}" in help_text, help_text
    run("docker", "run", "--rm", "--read-only", "--network", "none", "--entrypoint", "musterctl", "muster:latest", "--version")


def it_comes_up() -> None:
    compose("up", "--detach", "--wait", "--no-build", *SCALES)
    states = {}
    for line in compose("ps", "--all", "--format", "json").splitlines():
        item = json.loads(line)
        states.setdefault(item["Service"], []).append((item["State"], item["ExitCode"], item["Health"]))
    assert states["migrate"] == [("exited", 0, "")] and states["secrets"] == [("exited", 0, "")], states
    assert states["gateway"] == [("running", 0, "healthy")] * 3, states
    assert states["config-service"] == [("running", 0, "healthy")] * 2, states
    summary = FLEET.summary()
    assert len(summary["gateways"]) == 3, summary
    # Nothing can be reached from another machine.
    for identity in run("docker", "ps", "--quiet").split():
        for bindings in json.loads(run("docker", "inspect", identity))[0]["NetworkSettings"]["Ports"].values():
            assert all(binding["HostIp"] == "127.0.0.1" for binding in bindings or []), bindings
    # And the second time it finds its secrets.
    operator = compose("exec", "-T", "postgres", "cat", "/run/muster/database/password")
    compose("up", "--detach", "--wait", "--no-build", *SCALES)
    assert operator == compose("exec", "-T", "postgres", "cat", "/run/muster/database/password")


def a_load_and_a_restart() -> None:
    compose("up", "--detach", "--no-build", "--no-deps", "load")
    FLEET.all_connected()
    say(f"{AGENTS} agents are connected")
    FLEET.apply("first")
    say("and have a configuration")
    # Its agents leave one after another, and find the others.
    started = time.monotonic()
    run("docker", "restart", "--time", "45", container("gateway"))
    say(f"a gateway was drained and started again in {time.monotonic() - started:.0f} s")
    log = run("sh", "-c", f"docker logs {container('gateway')} 2>&1")
    # It has not, if it was killed before.
    assert "drained" in log, log[-2000:]
    FLEET.apply("second")
    FLEET.all_connected()
    say("another configuration has reached all of them")


def the_dashboards() -> None:
    # What nothing here brings about.
    quiet = re.compile(
        r"refusals|closes|errors|failures|dropped|gaps_total|publish_failed|command_targets|watches|probe|held_openings|write_conflicts"
    )
    def missing() -> list[str]:
        return [f"{where}: {query}" for where, query in loud if not prometheus(query)]

    queries = []
    for file in sorted((ROOT / "deploy/dashboards").glob("*.json")):
        for panel in json.loads(file.read_text())["panels"]:
            for target in panel["targets"]:
                query = target["expr"].replace("$__rate_interval", "1m").replace("$instance", ".*")
                queries.append((f"{file.name}: {panel['title']}", query))
    loud = [(where, query) for where, query in queries if not quiet.search(query)]
    # All must be queries that Prometheus understands.
    for _, query in queries:
        prometheus(query)
    try:
        eventually("every panel has data", lambda: not missing(), patience=60)
    except AssertionError:
        raise AssertionError("no data for:\n" + "\n".join(missing())) from None
    if RESULTS:
        RESULTS.mkdir(parents=True, exist_ok=True)
        answers = [{"panel": where, "query": query, "result": prometheus(query)} for where, query in queries]
        (RESULTS / "panels.json").write_text(json.dumps(answers, indent=1))


def no_alert_is_on() -> None:
    firing = [alert["metric"]["alertname"] for alert in prometheus('ALERTS{alertstate="firing"}')]
    assert not firing, firing


def the_result() -> None:
    run("docker", "kill", "--signal", "INT", container("load"))
    code = run("docker", "wait", container("load")).strip()
    log = run("docker", "logs", container("load"))
    assert code == "0", f"the load generator ended with {code}: {log}"
    print(log, file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        run("docker", "cp", f"{container('load')}:/home/nonroot/result.json", folder)
        result = json.loads((Path(folder) / "result.json").read_text())
        if RESULTS:
            shutil.copy(Path(folder) / "result.json", RESULTS)
            (RESULTS / "result.txt").write_text(log)
    judge(result, AGENTS, configurations=2)
    # Those of one gateway came back, and nobody else.
    assert 0 < result["counts"]["disconnects"] < AGENTS, result["counts"]


the_image()
say("the image is as it should be")
it_comes_up()
say("a deployment is up")
a_load_and_a_restart()
the_dashboards()
no_alert_is_on()
say("every panel has data, and no alert is on")
the_result()
