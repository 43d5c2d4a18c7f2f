"""As much of a Kubernetes API server as `helm template --dry-run=server` asks: which kinds there are, and objects by their name."""

import contextlib
import json
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import yaml

KINDS = {
    "v1": [
        ("configmaps", "ConfigMap"),
        ("persistentvolumeclaims", "PersistentVolumeClaim"),
        ("pods", "Pod"),
        ("secrets", "Secret"),
        ("serviceaccounts", "ServiceAccount"),
        ("services", "Service"),
    ],
    "apps/v1": [("deployments", "Deployment")],
    "autoscaling/v2": [("horizontalpodautoscalers", "HorizontalPodAutoscaler")],
    "batch/v1": [("jobs", "Job")],
    "networking.k8s.io/v1": [("networkpolicies", "NetworkPolicy")],
    "policy/v1": [("poddisruptionbudgets", "PodDisruptionBudget")],
}


def discovery(version: str) -> dict:
    verbs = ["get", "list", "create", "update", "patch", "delete"]
    resources = [{"name": name, "kind": kind, "namespaced": True, "verbs": verbs} for name, kind in KINDS[version]]
    return {"kind": "APIResourceList", "groupVersion": version, "resources": resources}


@contextlib.contextmanager
def api_server(objects: dict[str, dict]) -> Iterator[str]:
    """Serves `objects`, by the paths of their URLs, on loopback. Gives a file for KUBECONFIG."""
    versions = {name.split("/")[0]: {"groupVersion": name, "version": name.split("/")[1]} for name in KINDS if "/" in name}
    groups = [{"name": name, "versions": [version], "preferredVersion": version} for name, version in versions.items()]
    answers = {
        "/version": {"major": "1", "minor": "34", "gitVersion": "v1.34.0"},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {"kind": "APIGroupList", "groups": groups},
        **{f"/apis/{name}" if "/" in name else f"/api/{name}": discovery(name) for name in KINDS},
        **objects,
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # noqa: N802
            answer = answers.get(self.path.split("?")[0])
            missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
            body = json.dumps(answer or missing).encode()
            self.send_response(200 if answer else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server, tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        context = {"name": "test", "context": {"cluster": "test", "user": "test"}}
        cluster = {"name": "test", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}
        config = {"apiVersion": "v1", "kind": "Config", "current-context": "test"}
        yaml.safe_dump({**config, "contexts": [context], "clusters": [cluster], "users": [{"name": "test", "user": {}}]}, file)
        file.flush()
        yield file.name
        server.shutdown()
