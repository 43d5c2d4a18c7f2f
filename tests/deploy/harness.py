"""What the tests of deployments share: commands, waiting, and a fleet seen through musterctl."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Longer than anything takes on a busy machine.
PATIENCE = 300
BEGUN = time.monotonic()


def say(text: str) -> None:
    print(f"  {time.monotonic() - BEGUN:5.0f} s  {text}", file=sys.stderr, flush=True)


def run(*command: object, stdin: str | None = None, environment: dict[str, str] | None = None) -> str:
    """Standard output of a command that must succeed."""
    words = [str(word) for word in command]
    result = subprocess.run(
        words, cwd=ROOT, env={**os.environ, **(environment or {})}, input=stdin, capture_output=True, text=True
    )
    if result.returncode != 0:
        raise AssertionError(f"{' '.join(words)}: {result.stdout[-3000:]}{result.stderr[-3000:]}")
    return result.stdout


def eventually(what: str, ask: Callable, patience: float = PATIENCE):
    """Asks until there is an answer, and returns it."""
    deadline, last = time.monotonic() + patience, None
    while True:
        try:
            answer = ask()
            if answer:
                return answer
        except (AssertionError, OSError, ValueError) as error:
            last = error
        if time.monotonic() >= deadline:
            raise AssertionError(f"not within {patience} s: {what}" + (f"; {last}" if last else ""))
        time.sleep(0.5)


class Fleet:
    """Agents that a deployment knows of, and one policy for all of them."""

    def __init__(self, musterctl: Callable[..., str], agents: int) -> None:
        self.musterctl, self.agents = musterctl, agents
        self.hash = ""

    def summary(self) -> dict:
        return json.loads(self.musterctl("fleet", "-o", "json"))

    def all_connected(self) -> None:
        eventually(f"{self.agents} agents are connected", lambda: self.summary()["connected"] == self.agents)

    def apply(self, text: str) -> None:
        """Changes what every agent should run, and waits until each has said that it does."""
        manifest = {
            "kind": "Config",
            "name": "everyone",
            "selector": "service.name",
            "files": {"collector.yaml": {"content_type": "text/yaml", "body": f"# {text}\nreceivers: {{}}\n"}},
        }
        # JSON is YAML.
        self.musterctl("apply", "-f", "-", stdin=json.dumps(manifest))
        self.hash = eventually(f"all agents run what {text!r} says", lambda: self.common_hash(self.hash))

    def common_hash(self, before: str) -> str | None:
        """What all agents run, if that is one thing, another than before, and what they should run."""
        agents = json.loads(self.musterctl("get", "agents", "-o", "json"))
        reported = {(agent["config_status"], agent["reported_config_hash"]) for agent in agents}
        desired = {agent["desired_config_hash"] for agent in agents}
        if len(agents) != self.agents or len(reported) != 1 or len(desired) != 1:
            return None
        status, one = reported.pop()
        return one if status == "APPLIED" and one != before and one in desired else None


def judge(result: dict, agents: int, configurations: int) -> None:
    """What a load generator has seen: nobody was lost, nobody was asked for anything twice, everybody got everything."""
    counts = result["counts"]
    summary = {key: value for key, value in counts.items() if value}
    assert result["connected"] == agents, f"{result['connected']} of {agents} agents are connected: {summary}"
    for what in ("full_state_asks", "renames", "failed"):
        assert counts[what] == 0, f"{what}: {summary}"
    assert counts["applied"] == configurations * agents, summary
