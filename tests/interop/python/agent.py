"""An agent made of the Python OpAMP client. See ../README.md."""

import argparse
import json
import sys
import threading
import uuid

from opentelemetry._opamp.agent import OpAMPAgent
from opentelemetry._opamp.callbacks import OpAMPCallbacks
from opentelemetry._opamp.client import OpAMPClient
from opentelemetry._opamp.proto import opamp_pb2

PRINTING = threading.Lock()


def emit(event, **details):
    with PRINTING:
        print(json.dumps({"event": event, **details}), flush=True)


class Callbacks(OpAMPCallbacks):
    def __init__(self):
        self.is_connected = False

    def on_connect(self, agent, client):
        if not self.is_connected:
            self.is_connected = True
            emit("connected")

    def on_connect_failed(self, agent, client, error):
        self.is_connected = False
        emit("error", message=str(error))

    def on_error(self, agent, client, error_response):
        emit("error", message=error_response.error_message)

    def on_message(self, agent, client, message):
        if message.remote_config is None:
            return
        offered = message.remote_config
        files = {name: file.body.decode() for name, file in offered.config.config_map.items()}
        emit("config", hash=offered.config_hash.hex(), files=files)
        self.report(agent, client, offered.config_hash, "APPLYING")
        if any("fail:" in body for body in files.values()):
            self.report(agent, client, offered.config_hash, "FAILED", "the config says so")
            return
        client.update_effective_config(files, content_type="text/plain")
        self.report(agent, client, offered.config_hash, "APPLIED")
        # The client has no message for the effective config alone.
        agent.send(client.build_full_state_message())

    def report(self, agent, client, config_hash, name, error=""):
        status = client.update_remote_config_status(
            config_hash, opamp_pb2.RemoteConfigStatuses.Value(f"RemoteConfigStatuses_{name}"), error
        )
        if status is not None:
            agent.send(client.build_remote_config_status_response_message(status))
            emit("status", status=name, hash=config_hash.hex())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--token", required=True)
    parser.add_argument("--service", required=True)
    parser.add_argument("--interval", type=float, default=1.0)
    parser.add_argument("--uid", type=uuid.UUID)
    options = parser.parse_args()
    client = OpAMPClient(
        endpoint=options.url,
        headers={"Authorization": f"Bearer {options.token}"},
        agent_identifying_attributes={"service.name": options.service, "service.version": "1.0"},
        agent_non_identifying_attributes={"os.type": "linux", "client": "python"},
    )
    if options.uid:
        # There is no other way to come with a given one.
        client._instance_uid = options.uid.bytes
    agent = OpAMPAgent(interval=options.interval, callbacks=Callbacks(), client=client)
    emit("started", instance_uid=str(uuid.UUID(bytes=client._instance_uid)))
    agent.start()
    sys.stdin.read()
    agent.stop(timeout=5)
    emit("stopped")


if __name__ == "__main__":
    main()
