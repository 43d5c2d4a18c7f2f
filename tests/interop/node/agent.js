// An agent made of the Node.js OpAMP client. See ../README.md.

import {parseArgs} from 'node:util';
import {subscribe} from 'node:diagnostics_channel';

import opamp from '@elastic/opamp-client-node';

const {createOpAMPClient, AgentCapabilities, RemoteConfigStatuses, DIAG_CH_SEND_SUCCESS, DIAG_CH_SEND_FAIL} = opamp;

function emit(event, details = {}) {
    console.log(JSON.stringify({event, ...details}));
}

function onMessage({remoteConfig}) {
    if (!remoteConfig) {
        return;
    }
    const hash = Buffer.from(remoteConfig.configHash).toString('hex');
    const files = Object.entries(remoteConfig.config?.configMap ?? {});
    const texts = Object.fromEntries(files.map(([name, file]) => [name, Buffer.from(file.body).toString()]));
    emit('config', {hash, files: texts});
    const isBad = Object.values(texts).some((text) => text.includes('fail:'));
    const status = isBad ? 'FAILED' : 'APPLIED';
    client.setRemoteConfigStatus({
        lastRemoteConfigHash: remoteConfig.configHash,
        status: RemoteConfigStatuses[`RemoteConfigStatuses_${status}`],
        errorMessage: isBad ? 'the config says so' : '',
    });
    emit('status', {status, hash});
}

const {values: options} = parseArgs({
    options: {
        url: {type: 'string'},
        token: {type: 'string'},
        service: {type: 'string'},
        interval: {type: 'string', default: '1'},
        uid: {type: 'string'},
    },
});

let isConnected = false;
subscribe(DIAG_CH_SEND_SUCCESS, () => {
    if (!isConnected) {
        isConnected = true;
        emit('connected');
    }
    if (uidText() !== known) {
        known = uidText();
        emit('identity', {instance_uid: known});
    }
});
subscribe(DIAG_CH_SEND_FAIL, ({err}) => {
    isConnected = false;
    emit('error', {message: String(err?.message ?? err)});
});

const client = createOpAMPClient({
    endpoint: options.url,
    ...(options.uid && {instanceUid: options.uid}),
    headers: {Authorization: `Bearer ${options.token}`},
    heartbeatIntervalSeconds: Number(options.interval),
    capabilities:
        AgentCapabilities.AgentCapabilities_AcceptsRemoteConfig |
        AgentCapabilities.AgentCapabilities_ReportsRemoteConfig,
    onMessage,
    diagEnabled: true,
});
client.setAgentDescription({
    identifyingAttributes: {'service.name': options.service, 'service.version': '1.0'},
    nonIdentifyingAttributes: {'os.type': 'linux', client: 'node'},
});

function uidText() {
    const hex = Buffer.from(client.getInstanceUid()).toString('hex');
    return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
}

let known = uidText();
emit('started', {instance_uid: known});
client.start();

process.stdin.resume();
process.stdin.on('end', async () => {
    await client.shutdown();
    emit('stopped');
    process.exit(0);
});
