#!/usr/bin/env python3
"""Checks everything that deploys Muster without deploying it: image, compose file, chart, dashboards, alerts, runbooks.

usage: check.py        UPDATE=1 check.py writes the golden output and the chart's copies anew

Its tools (helm, promtool, hadolint, docker-compose) must be on the PATH: tests/deploy/run sees to that.
"""

import copy
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path

import yaml

from api_server import api_server
from values_to_try import EVERYTHING, FIRST, IMAGES, OTHERS, OUTSIDE, PLACES, REFUSED, TRIAL, WITHOUT

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "tests/deploy"
CHART = ROOT / "helm/muster"
UPDATE = os.environ.get("UPDATE") == "1"
VALUES = {file.stem: file for file in sorted((HERE / "values").glob("*.yaml"))}
failures: list[str] = []


def check(condition: object, what: str) -> None:
    if not condition:
        failures.append(what)
        print(f"FAILED  {what}", file=sys.stderr)


def run(*command: object, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in command], input=stdin, capture_output=True, text=True, cwd=ROOT)


def passes(what: str, *command: object) -> str:
    result = run(*command)
    check(result.returncode == 0, f"{what}: {result.stdout}{result.stderr}")
    return result.stdout


# The chart.


def helm(*arguments: object, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return run("helm", "template", "release", CHART, "--namespace", "fleet", *arguments, stdin=stdin)


def render(*arguments: object) -> list[dict]:
    result = helm(*arguments)
    if result.returncode != 0:
        sys.exit(f"helm template {arguments}: {result.stderr}")
    return objects(result.stdout)


def objects(text: str) -> list[dict]:
    return [item for item in yaml.safe_load_all(text) if item]


def by_name(items: list[dict]) -> dict[tuple[str, str], dict]:
    return {(item["kind"], item["metadata"]["name"]): item for item in items}


def lint() -> None:
    passes("helm lint", "helm", "lint", "--strict", CHART)
    for name, file in VALUES.items():
        passes(f"helm lint with {name}", "helm", "lint", "--strict", CHART, "--values", file)


def golden() -> None:
    for name, file in VALUES.items():
        result = helm("--values", file)
        check(result.returncode == 0, f"helm template with {name}: {result.stderr}")
        path = HERE / "golden" / f"{name}.yaml"
        before = path.read_text() if path.exists() else ""
        immutable(f"{name}: from the golden output to this", objects(before), objects(result.stdout))
        if UPDATE:
            path.write_text(stable(result))
        check(UPDATE or before == stable(result), f"{path.relative_to(ROOT)} is out of date: UPDATE=1 tests/deploy/run check")


def immutable(what: str, before: list[dict], after: list[dict]) -> None:
    """What has a name that stays must not change where Kubernetes forbids it."""
    fields = {
        "Deployment": lambda item: item["spec"]["selector"],
        "Job": lambda item: (item["spec"].get("selector"), item["spec"]["template"]),
        "Service": lambda item: item["spec"].get("clusterIP"),
        "PersistentVolumeClaim": lambda item: {k: v for k, v in item["spec"].items() if k != "resources"},
        "Secret": lambda item: item.get("type"),
    }
    new = by_name(after)
    for key, item in by_name(before).items():
        if key in new and item["kind"] in fields:
            field = fields[item["kind"]]
            check(field(item) == field(new[key]), f"{what}: an immutable field of {key} changes")


def upgrades() -> None:
    for name, file in VALUES.items():
        before = render("--values", file)
        for change in ["image.tag=9.9.9", "migration.waitSeconds=60", "logLevel=debug", "gateway.drainPerSecond=400"]:
            after = render("--values", file, "--set", change)
            immutable(f"{name} with {change}", before, after)
        after = by_name(render("--values", file, "--set", "image.tag=9.9.9"))
        jobs = {key for key in by_name(before) if key[0] == "Job"}
        check(len(jobs) == 1 and not jobs & after.keys(), f"{name}: another image needs another migration job")


def pods(items: list[dict]) -> dict[str, tuple[dict, dict]]:
    """Metadata and specification of every pod."""
    found = {}
    for item in items:
        if item["kind"] == "Pod":
            found[item["metadata"]["name"]] = (item["metadata"], item["spec"])
        elif item["kind"] in ("Deployment", "Job"):
            template = item["spec"]["template"]
            found[item["metadata"]["name"]] = (template["metadata"], template["spec"])
    return found


def seconds(text: str) -> int:
    return int(text.removesuffix("s"))


def toml(text: str) -> dict[str, object]:
    values = {}
    for line in text.splitlines():
        key, _, value = line.partition(" = ")
        values[key] = json.loads(value)
    return values


def known_settings(command: str) -> set[str]:
    page = (ROOT / "docs/settings.md").read_text()
    section = page.split(f"\n## {command}\n")[1].split("\n## ")[0]
    return {name.lower() for name in re.findall(r"`MUSTER_([A-Z0-9_]+)`", section)}


def admits(rules: list[dict], port: str, labels: dict[str, str]) -> bool:
    """Whether a pod with these labels, of the same namespace, may connect to the port."""
    is_peer = lambda peer: "podSelector" in peer and peer["podSelector"]["matchLabels"].items() <= labels.items()
    opens = lambda rule: any(entry["port"] == port for entry in rule["ports"])
    return any(opens(rule) and ("from" not in rule or any(map(is_peer, rule["from"]))) for rule in rules)


def structure() -> None:
    for name, file in VALUES.items():
        items = render("--values", file)
        named = by_name(items)
        everything = pods(items)
        has = lambda kind, of: (kind, f"release-muster-{of}") in named

        for pod, (metadata, spec) in everything.items():
            where = f"{name}: pod {pod}"
            user = spec["securityContext"]
            check(user["runAsNonRoot"] and user["runAsUser"] > 0, f"{where} is not root")
            check(user["seccompProfile"] == {"type": "RuntimeDefault"}, f"{where} has a seccomp profile")
            check(spec["automountServiceAccountToken"] is False, f"{where} has no token of Kubernetes")
            check(spec["enableServiceLinks"] is False, f"{where} has no variables of services")
            volumes = {volume["name"] for volume in spec.get("volumes", [])}
            for container in spec["containers"]:
                rights = container["securityContext"]
                check(rights["readOnlyRootFilesystem"] is True, f"{where} has a read-only root file system")
                check(rights["allowPrivilegeEscalation"] is False, f"{where} cannot gain rights")
                check(rights["capabilities"] == {"drop": ["ALL"]}, f"{where} has no capabilities")
                mounts = [mount["name"] for mount in container.get("volumeMounts", [])]
                check(volumes >= set(mounts), f"{where} mounts volumes that there are")
                for variable in container.get("env", []):
                    value = variable.get("value", "")
                    check("://" not in value, f"{where}: {variable['name']} may hold a password")
                if metadata["labels"].get("app.kubernetes.io/component") != "test":
                    check(container["resources"].get("requests"), f"{where} says what it needs")

        # What selects pods selects some, and those that it is for.
        for (kind, of), item in named.items():
            selector = {
                "Deployment": lambda item: item["spec"]["selector"]["matchLabels"],
                "Service": lambda item: item["spec"]["selector"],
                "PodDisruptionBudget": lambda item: item["spec"]["selector"]["matchLabels"],
                "NetworkPolicy": lambda item: item["spec"]["podSelector"]["matchLabels"],
            }.get(kind)
            if selector:
                wanted = selector(item).items()
                hits = {pod for pod, (metadata, _) in everything.items() if wanted <= metadata["labels"].items()}
                expected = {
                    "release-muster-admin": {"release-muster-config-service"},
                    "release-muster-metrics": {"release-muster-gateway", "release-muster-config-service"},
                }.get(of, {pod for pod in everything if pod == of or pod.startswith(f"{of[:-3]}e-") and of.endswith("ion")})
                check(hits == expected, f"{name}: {kind} {of} selects {hits}, not {expected}")

        # Ports by the names that people rely on.
        for service, port, component in [("gateway", 4320, "gateway"), ("admin", 4321, "config-service")]:
            spec = named["Service", f"release-muster-{service}"]["spec"]
            check(spec["ports"][0]["port"] == port, f"{name}: Service {service} has port {port}")
            ports = everything[f"release-muster-{component}"][1]["containers"][0]["ports"]
            target = {entry["name"]: entry["containerPort"] for entry in ports}[spec["ports"][0]["targetPort"]]
            check(target == port, f"{name}: Service {service} leads to {target}")

        # Settings, and the drain that follows from one of them.
        settings = named["ConfigMap", "release-muster"]["data"]
        gateway, service = toml(settings["gateway.toml"]), toml(settings["config-service.toml"])
        for role, given in [("gateway", gateway), ("config-service", service)]:
            unknown = given.keys() - known_settings(f"muster {role}")
            check(not unknown, f"{name}: {role} has no settings {unknown}")
        drain = [seconds(gateway[f"drain_{part}"]) for part in ("delay", "window", "grace", "handover")]
        values = merged(yaml.safe_load((CHART / "values.yaml").read_text()), yaml.safe_load(file.read_text()))
        check(drain[1] == values["drainSeconds"], f"{name}: the drain window is drainSeconds")
        check(drain[0] >= 5, f"{name}: there is time to see that a gateway is not ready")
        deployment = named["Deployment", "release-muster-gateway"]["spec"]
        kill = deployment["template"]["spec"]["terminationGracePeriodSeconds"]
        check(sum(drain) + 5 <= kill <= sum(drain) + 15, f"{name}: the pod has {kill} s for {drain}")
        check(deployment["progressDeadlineSeconds"] > 2 * kill, f"{name}: an upgrade may take as long as a drain")
        check(deployment["strategy"]["rollingUpdate"]["maxUnavailable"] == 0, f"{name}: no gateway is missing in an upgrade")

        # What is not stored yet has room beside all else.
        units = {"Mi": 1 << 20, "Gi": 1 << 30}
        limit = values["gateway"]["resources"]["limits"]["memory"]
        memory = int(limit[:-2]) * units[limit[-2:]]
        check(gateway["max_pending_bytes"] == memory // 2, f"{name}: {gateway['max_pending_bytes']} of {limit} for reports")

        # Agents reach all that gateways have for them, whichever way they come.
        paths = {gateway.get("opamp_path", "/v1/opamp")} | ({"/v1/packages"} if "package_storage" in gateway else set())
        if has("Ingress", "gateway"):
            [rule] = named["Ingress", "release-muster-gateway"]["spec"]["rules"]
            check({entry["path"] for entry in rule["http"]["paths"]} == paths, f"{name}: the Ingress leads to {paths}")
        if has("HTTPRoute", "gateway"):
            [rule] = named["HTTPRoute", "release-muster-gateway"]["spec"]["rules"]
            check({match["path"]["value"] for match in rule["matches"]} == paths, f"{name}: the HTTPRoute leads to {paths}")

        # Alerts lead to their runbooks, by a link where it is said where they are.
        base = values["metrics"]["prometheusRule"]["runbookBaseUrl"].rstrip("/")
        for rule in alerts_of(named.get(("PrometheusRule", "release-muster"), {"spec": {"groups": []}})["spec"]):
            page = f"{rule['alert']}.md"
            wanted = {"runbook_url": f"{base}/{page}"} if base else {"runbook": f"docs/runbooks/{page}"}
            found = {key: text for key, text in rule["annotations"].items() if key.startswith("runbook")}
            check(found == wanted, f"{name}: {rule['alert']} has {found}, not {wanted}")

        # A Deployment without a number would get one gateway, whatever the autoscaler says afterwards.
        scaled = has("HorizontalPodAutoscaler", "gateway")
        fewest = values["gateway"]["autoscaling"]["minReplicas"] if scaled else values["gateway"]["replicas"]
        check(deployment.get("replicas") == fewest, f"{name}: {deployment.get('replicas')} gateways, not {fewest}")
        if scaled:
            behavior = named["HorizontalPodAutoscaler", "release-muster-gateway"]["spec"]["behavior"]["scaleDown"]
            check(behavior["policies"] == [{"type": "Pods", "value": 1, "periodSeconds": 2 * kill}], f"{name}: one by one")
            check(behavior["stabilizationWindowSeconds"] > kill, f"{name}: not before the last drain is over")

        # Every pod has a policy; agents cannot be kept from gateways by one that is for others.
        for pod, (metadata, _) in everything.items():
            component = metadata["labels"]["app.kubernetes.io/component"]
            check(component == "test" or has("NetworkPolicy", component), f"{name}: {pod} has no network policy")

        # `helm test` reaches what it asks, and nothing else.
        for pod, (metadata, _) in everything.items():
            if metadata["labels"]["app.kubernetes.io/component"] == "test":
                is_agent = pod.endswith("-agent")
                for policy, port, wanted in [("config-service", "admin", True), ("gateway", "opamp", is_agent)]:
                    rules = named["NetworkPolicy", f"release-muster-{policy}"]["spec"]["ingress"]
                    check(not wanted or admits(rules, port, metadata["labels"]), f"{name}: {pod} does not reach {port} of the {policy}")
                    scraped = values["networkPolicy"]["scrapers"] and admits(rules, "metrics", metadata["labels"])
                    check(not scraped, f"{name}: {pod} reaches the metrics of the {policy}")

        # Secrets are where secrets belong.
        text = yaml.safe_dump([item for item in items if item["kind"] != "Secret"])
        check(not re.search(r"(postgres|rediss?)://", text), f"{name}: a URL outside of a secret")
        job = next(item for item in items if item["kind"] == "Job")
        check("annotations" not in job["metadata"], f"{name}: the migration is no hook")


def running_gateways() -> None:
    """An upgrade leaves the autoscaler its number of gateways."""
    path = "/apis/apps/v1/namespaces/fleet/deployments/release-muster-gateway"
    values = yaml.safe_dump(merged(TRIAL, {"gateway": {"autoscaling": {"enabled": True, "minReplicas": 3, "maxReplicas": 10}}}))
    for running, expected in [(None, 3), (1, 3), (7, 7), (12, 10)]:
        owner = {"meta.helm.sh/release-name": "release", "meta.helm.sh/release-namespace": "fleet"}
        metadata = {"name": "release-muster-gateway", "labels": {"app.kubernetes.io/managed-by": "Helm"}, "annotations": owner}
        deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": {"replicas": running}}
        with api_server({path: deployment} if running else {}) as cluster:
            result = helm("--values", "-", "--dry-run=server", "--disable-openapi-validation", "--kubeconfig", cluster, stdin=values)
        check(result.returncode == 0, f"an upgrade of {running} gateways: {result.stderr}")
        found = by_name(objects(result.stdout)).get(("Deployment", "release-muster-gateway"), {"spec": {}})["spec"].get("replicas")
        check(found == expected, f"{running} gateways become {found}, not {expected}")


def merged(*layers: dict) -> dict:
    result: dict = {}
    for layer in layers:
        for key, value in layer.items():
            both = isinstance(value, dict) and isinstance(result.get(key), dict)
            result[key] = merged(result[key], value) if both else copy.deepcopy(value)
    return result


def secret_settings(command: str) -> set[str]:
    """Those that are secrets, or files, which only a volume of the chart's can bring."""
    page = (ROOT / "docs/settings.md").read_text()
    section = page.split(f"\n## {command}\n")[1].split("\n## ")[0]
    names = {name.lower() for name in re.findall(r"`MUSTER_([A-Z0-9_]+)` \| (?:SECRET|FILE) ", section)}
    return names - {"config_file"}


def negatives() -> None:
    for where, role in [("gateway", "gateway"), ("configService", "config-service")]:
        names = secret_settings(f"muster {role}")
        check({"redis_url", "redis_url_file", "redis_ca_file"} <= names, f"{role}: secrets are {names}")
        for key in sorted(names):
            result = helm("--values", "-", stdin=yaml.safe_dump(merged(TRIAL, {where: {"settings": {key: "x"}}})))
            check(f"{where}.settings.{key} cannot be set" in result.stderr, f"{where}.settings.{key} is refused")
    check(helm("--values", "-", stdin=yaml.safe_dump(TRIAL)).returncode == 0, "what is refused is refused for its reason")
    for values, reason in REFUSED:
        result = helm("--values", "-", stdin=yaml.safe_dump(merged(TRIAL, values)))
        check(result.returncode != 0, f"{values} is refused")
        check(result.returncode == 0 or reason in result.stderr, f"{values}: {reason!r} is not in {result.stderr}")


def first_values() -> None:
    for sizes in FIRST:
        for place in PLACES:
            for image, name in IMAGES:
                values = merged(sizes, place, {"image": image})
                result = helm("--values", "-", stdin=yaml.safe_dump(values))
                check(result.returncode == 0, f"{values}: {result.stderr}")
                if result.returncode == 0:
                    as_asked(values, name, by_name(objects(result.stdout)))


def as_asked(values: dict, image: str, named: dict[tuple[str, str], dict]) -> None:
    gateway, service = (named["Deployment", f"release-muster-{name}"]["spec"] for name in ("gateway", "config-service"))
    check(gateway["replicas"] == values["gateway"]["replicas"], f"{values}: {gateway['replicas']} gateways")
    check(service["replicas"] == values["configService"]["replicas"], f"{values}: {service['replicas']} config services")
    job = next(item["spec"] for (kind, _), item in named.items() if kind == "Job")
    for pod in (gateway, service, job):
        container = pod["template"]["spec"]["containers"][0]
        check(container["image"] == image, f"{values}: {container['image']}")
        check(container["imagePullPolicy"] == values.get("image", {}).get("pullPolicy", "IfNotPresent"), f"{values}: pullPolicy")
    volumes = {volume["name"]: volume.get("secret") for volume in service["template"]["spec"]["volumes"]}
    for what, key in [("database", "url"), ("redis", "url"), ("operator", "token")]:
        given = values.get("operatorToken" if what == "operator" else what, {}).get("existingSecret")
        secret = volumes[what]
        check(secret["items"][0]["key"] == key, f"{values}: {what} is read from the key {key}")
        check(secret["secretName"] == given or not given and ("Secret", secret["secretName"]) in named, f"{values}: {secret}")
    settings = toml(named["ConfigMap", "release-muster"]["data"]["gateway.toml"])
    others = max(1, values["gateway"]["replicas"] - 1) * settings["admission_per_second"]
    check(others * values["drainSeconds"] >= settings["max_connections"], f"{values}: the others cannot admit all in time")
    check(gateway["template"]["spec"]["terminationGracePeriodSeconds"] > values["drainSeconds"], f"{values}: killed too early")
    ports = {port["port"] for policy in ("gateway", "config-service") for rule in named["NetworkPolicy", f"release-muster-{policy}"]["spec"]["egress"] for port in rule["ports"]}
    for what in ("database", "redis"):
        port = re.search(r":(\d+)/", values.get(what, {}).get("url", ""))
        check(not port or int(port[1]) in ports, f"{values}: {what} cannot be reached at {port and port[1]}")


def leaves(values: dict, path: tuple[str, ...] = ()):
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, path + (key,))
        else:
            yield path + (key,), value


def every_value_is_used_and_documented() -> None:
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    documented = commented((CHART / "values.yaml").read_text())
    rendered: dict[str, str] = {}
    for path, value in leaves(defaults):
        name = ".".join(path)
        check(any(".".join(path[:n]) in documented for n in range(1, len(path) + 1)), f"values.yaml does not explain {name}")
        base = merged(EVERYTHING, TRIAL if path[0] == "trial" else OUTSIDE, WITHOUT.get(name, {}))
        if name == "trial.enabled":
            base = EVERYTHING
        if name in OTHERS:
            other = OTHERS[name]
        elif isinstance(value, bool):
            current = base
            for key in path:
                current = current.get(key, {}) if isinstance(current, dict) else current
            other = not current if isinstance(current, bool) else not value
        elif isinstance(value, int):
            other = value + 1
        elif isinstance(value, str):
            other = "7" if "resources" in path else f"{value}x"
        elif isinstance(value, list):
            other = [{"key": "x", "port": 1}] if name.endswith("tolerations") else [{"maxSkew": 7}]
        else:
            other = {"x": "z"}
        change: object = other
        for key in reversed(path):
            change = {key: change}
        before = yaml.safe_dump(base)
        if before not in rendered:
            rendered[before] = stable(helm("--values", "-", stdin=before))
        result = helm("--values", "-", stdin=yaml.safe_dump(merged(base, change)))
        if name != "trial.enabled":
            check(result.returncode == 0, f"{name} = {other!r}: {result.stderr}")
        check(result.stdout and stable(result) != rendered[before], f"nothing uses {name}")


def stable(result: subprocess.CompletedProcess[str]) -> str:
    """Without what is made anew each time."""
    return re.sub(r"^  (token|password|url): \S+$", r"  \1: bWFkZQ==", result.stdout, flags=re.MULTILINE)


def commented(text: str) -> set[str]:
    """Paths of the keys with a comment directly above, or above a neighbour that stands directly above."""
    found, path, above = set(), [], False
    for line in text.splitlines():
        key = re.match(r"( *)([A-Za-z]+):", line)
        if line.lstrip().startswith("#"):
            above = True
        elif key:
            depth = len(key[1]) // 2
            path = path[:depth] + [key[2]]
            if above:
                found.add(".".join(path))
        if not line.strip():
            above = False
    return found


# What goes with it.


def copies() -> None:
    """The chart's files are those of deploy/: a chart cannot reach outside of its folder."""
    pairs = [(ROOT / "deploy/alerts.yaml", CHART / "files/alerts.yaml")]
    pairs += [(file, CHART / "files/dashboards" / file.name) for file in sorted((ROOT / "deploy/dashboards").glob("*.json"))]
    for source, copied in pairs:
        if UPDATE:
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copied)
        same = copied.exists() and source.read_bytes() == copied.read_bytes()
        check(same, f"{copied.relative_to(ROOT)} is no copy of {source.relative_to(ROOT)}: UPDATE=1 tests/deploy/run check")
    there = set((CHART / "files").rglob("*.*"))
    check(there == {copied for _, copied in pairs}, f"the chart has files of its own: {there}")


def alerts_of(rules: dict) -> list[dict]:
    return [rule for group in rules["groups"] for rule in group["rules"]]


def alerts() -> None:
    passes("promtool check rules", "promtool", "check", "rules", "deploy/alerts.yaml")
    passes("promtool test rules", "promtool", "test", "rules", "tests/deploy/alerts.test.yaml")
    rules = alerts_of(yaml.safe_load((ROOT / "deploy/alerts.yaml").read_text()))
    tests = yaml.safe_load((HERE / "alerts.test.yaml").read_text())["tests"]
    cases = [case for test in tests for case in test["alert_rule_test"]]
    metrics = known_metrics()
    index = (ROOT / "docs/runbooks/README.md").read_text()
    for rule in rules:
        name = rule["alert"]
        check(any(case["alertname"] == name and case["exp_alerts"] for case in cases), f"no test makes {name} fire")
        check(any(case["alertname"] == name and not case["exp_alerts"] for case in cases), f"no test has {name} silent")
        check(rule["labels"]["severity"] in ("critical", "warning", "info"), f"{name} has a severity")
        runbook = ROOT / rule["annotations"]["runbook"]
        check(runbook.exists() and runbook.stem == name, f"{name} has no runbook")
        check(runbook.exists() and f"    {rule['expr']}\n" in runbook.read_text(), f"{runbook.name} has another expression")
        check(f"[{name}]({name}.md)" in index, f"{name} is not in docs/runbooks/README.md")
        unknown = used_metrics(rule["expr"]) - metrics
        check(not unknown, f"{name}: there are no metrics {unknown}")
    pages = {page.stem for page in (ROOT / "docs/runbooks").glob("*.md")} - {"README"}
    check(pages == {rule["alert"] for rule in rules}, f"runbooks without an alert: {pages - {r['alert'] for r in rules}}")


def known_metrics() -> set[str]:
    """Those of docs/operations.md, which the integration tests compare with the code and with a scrape."""
    names = set()
    for name, kind in re.findall(r"^\| `(muster_\w+)` \| (\w+) \|", (ROOT / "docs/operations.md").read_text(), re.MULTILINE):
        names |= {f"{name}_{part}" for part in ("bucket", "sum", "count")} if kind == "histogram" else {name}
    processes = (ROOT / "src/telemetry/process.rs").read_text()
    return names | set(re.findall(r'"(process_\w+)"', processes))


def used_metrics(expression: str) -> set[str]:
    return set(re.findall(r"\b(?:muster|process)_\w+", expression))


def dashboards() -> None:
    metrics, uids, used = known_metrics(), set(), set()
    expressions = []
    for file in sorted((ROOT / "deploy/dashboards").glob("*.json")):
        dashboard = json.loads(file.read_text())
        uids.add(dashboard["uid"])
        ids = [panel["id"] for panel in dashboard["panels"]]
        check(len(ids) == len(set(ids)), f"{file.name}: panels have ids of their own")
        for panel in dashboard["panels"]:
            check(panel["targets"], f"{file.name}: panel {panel['title']} asks for nothing")
            for target in panel["targets"]:
                unknown = used_metrics(target["expr"]) - metrics
                check(not unknown, f"{file.name}: {panel['title']}: there are no metrics {unknown}")
                check(used_metrics(target["expr"]), f"{file.name}: {panel['title']}: a query without a metric")
                used |= used_metrics(target["expr"])
                expressions.append(target["expr"].replace("$__rate_interval", "1m").replace("$instance", ".*"))
    check(len(uids) == len(list((ROOT / "deploy/dashboards").glob("*.json"))), "each dashboard has a uid of its own")
    rules = [{"record": f"query:{number}", "expr": expression} for number, expression in enumerate(expressions)]
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}, file)
        file.flush()
        passes("the dashboards' queries", "promtool", "check", "rules", file.name)


def image() -> None:
    passes("hadolint", "hadolint", "--failure-threshold", "style", "deploy/Dockerfile")
    text = (ROOT / "deploy/Dockerfile").read_text()
    copied = set(re.findall(r"^COPY (?!--)(.+) \S+$", text, re.MULTILINE))
    wanted = {word for words in copied for word in words.split()}
    sent = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    check(wanted == sent, f".dockerignore lets through {sent}, the Dockerfile copies {wanted}")
    # Tests take binaries that are there already, so nothing else would find a target for which the Dockerfile has no stand-in.
    stand_ins = set(re.search(r"for main in (.+); do", text)[1].split()) | set(re.findall(r"touch (\S+\.rs)", text))
    manifest = tomllib.loads((ROOT / "Cargo.toml").read_text())
    places = {"bin": "src/bin", "bench": "benches", "example": "examples", "test": "tests"}
    targets = {target.get("path", f"{folder}/{target['name']}.rs") for kind, folder in places.items() for target in manifest.get(kind, [])}
    targets |= {manifest.get("lib", {}).get("path", "src/lib.rs"), manifest["package"].get("build", "build.rs")}
    check(stand_ins == targets, f"the Dockerfile has stand-ins for {stand_ins}, Cargo.toml the targets {targets}")
    toolchain = tuple(map(int, re.search(r"RUST=rust:([\d.]+)", text)[1].split(".")))
    needed = tuple(map(int, manifest["package"]["rust-version"].split(".")))
    check(toolchain >= needed, f"the Dockerfile builds with Rust {toolchain}, Cargo.toml needs {needed}")


def archives() -> None:
    """The images that tests make are for the machine that they are made on."""
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(f"{folder}/layer.tar", "w"):
            pass
        passes("image.py", sys.executable, HERE / "image.py", f"{folder}/image", f"{folder}/layer.tar", "name:tag", "{}")
        with tarfile.open(f"{folder}/image") as archive:
            read = lambda name: json.loads(archive.extractfile(name).read())
            found = read(read("manifest.json")[0]["Config"])["architecture"]
    expected = run("dpkg", "--print-architecture").stdout.strip() if shutil.which("dpkg") else found
    check(found == expected, f"images are for {found}, this machine is {expected}")


def compose() -> None:
    text = passes("docker compose config", "docker-compose", "--profile", "load", "config")
    services = yaml.safe_load(text)["services"]
    for name, service in services.items():
        for port in service.get("ports", []):
            check(port["host_ip"] == "127.0.0.1", f"{name}: port {port['published']} is open to other machines")
        for variable, value in (service.get("environment") or {}).items():
            secret = re.search("PASSWORD|TOKEN|SECRET", variable) and not re.search("_FILE$", variable)
            check(not secret and not re.search(r"://[^/]*:[^/]*@", value or ""), f"{name}: {variable} holds a secret")
        if service["image"].startswith("muster:"):
            check(service["read_only"] and service["cap_drop"] == ["ALL"], f"{name} has rights that it does not need")
    for name in ("config-service", "gateway", "postgres", "redis"):
        check(services[name].get("healthcheck"), f"{name} has no health check")
    check(services["config-service"]["deploy"]["replicas"] == 2, "there are two config services")
    check(services["gateway"]["deploy"]["replicas"] == 3, "there are three gateways")
    settings = services["gateway"]["environment"]
    drain = seconds(settings["MUSTER_DRAIN_DELAY"]) + seconds(settings["MUSTER_DRAIN_WINDOW"]) + 2 + 10
    check(seconds(services["gateway"]["stop_grace_period"]) > drain, "a gateway has the time to drain")
    passes("Prometheus' settings", "promtool", "check", "config", "--syntax-only", "deploy/compose/prometheus.yml")


for part in (copies, image, archives, compose, alerts, dashboards, lint, golden, upgrades, structure, running_gateways, negatives, first_values, every_value_is_used_and_documented):
    print(f"  {part.__name__.replace('_', ' ')}", file=sys.stderr, flush=True)
    part()
if failures:
    sys.exit(f"{len(failures)} checks failed")
