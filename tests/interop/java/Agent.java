// An agent made of the Java OpAMP client. See ../README.md.

import io.opentelemetry.opamp.client.OpampClient;
import io.opentelemetry.opamp.client.OpampClientBuilder;
import io.opentelemetry.opamp.client.internal.connectivity.http.OkHttpSender;
import io.opentelemetry.opamp.client.internal.connectivity.websocket.OkHttpWebSocket;
import io.opentelemetry.opamp.client.internal.request.delay.PeriodicDelay;
import io.opentelemetry.opamp.client.internal.request.delay.RetryPeriodicDelay;
import io.opentelemetry.opamp.client.internal.request.service.HttpRequestService;
import io.opentelemetry.opamp.client.internal.request.service.WebSocketRequestService;
import io.opentelemetry.opamp.client.internal.response.MessageData;
import io.opentelemetry.opamp.client.internal.state.State;
import io.opentelemetry.opamp.client.request.service.RequestService;
import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import okhttp3.OkHttpClient;
import okio.ByteString;
import opamp.proto.AgentConfigFile;
import opamp.proto.AgentConfigMap;
import opamp.proto.AgentDescription;
import opamp.proto.AgentRemoteConfig;
import opamp.proto.AnyValue;
import opamp.proto.KeyValue;
import opamp.proto.RemoteConfigStatus;
import opamp.proto.RemoteConfigStatuses;
import opamp.proto.ServerErrorResponse;

public final class Agent implements OpampClient.Callbacks {
    private final String service;
    private final boolean isWebSocket;
    private final Effective effective = new Effective();
    private boolean isConnected;
    private int connections;

    private Agent(String service, boolean isWebSocket) {
        this.service = service;
        this.isWebSocket = isWebSocket;
    }

    /** What it runs: the files that it took last. */
    private static final class Effective extends State.EffectiveConfig {
        private volatile opamp.proto.EffectiveConfig files = message(null);

        @Override
        public opamp.proto.EffectiveConfig get() {
            return files;
        }

        void set(AgentConfigMap map) {
            files = message(map);
            notifyUpdate();
        }

        private static opamp.proto.EffectiveConfig message(AgentConfigMap map) {
            return new opamp.proto.EffectiveConfig.Builder().config_map(map).build();
        }
    }

    @Override
    public synchronized void onConnect(OpampClient client) {
        // Over HTTP this is called for every poll.
        if (isConnected && !isWebSocket) {
            return;
        }
        isConnected = true;
        connections++;
        emit("connected", Map.of());
        // The client throws its first message away, full as it was, when it makes it before a WebSocket is open. What it
        // says then is nothing but its uid, and a request for its full state changes only what it says next; when it comes
        // back it says nothing at all. So an application has to say something itself, and something new, for the client
        // holds back what it has said before.
        if (isWebSocket) {
            client.setAgentDescription(description(service, connections));
        }
    }

    @Override
    public synchronized void onConnectFailed(OpampClient client, Throwable error) {
        isConnected = false;
        emit("error", Map.of("message", String.valueOf(error)));
    }

    @Override
    public void onErrorResponse(OpampClient client, ServerErrorResponse error) {
        emit("error", Map.of("message", error.error_message));
    }

    @Override
    public void onMessage(OpampClient client, MessageData message) {
        AgentRemoteConfig offered = message.getRemoteConfig();
        if (offered == null) {
            return;
        }
        Map<String, Object> files = new TreeMap<>();
        Map<String, AgentConfigFile> map =
                offered.config == null ? Map.of() : offered.config.config_map;
        map.forEach((name, file) -> files.put(name, file.body.utf8()));
        emit("config", Map.of("hash", offered.config_hash.hex(), "files", files));
        report(client, offered.config_hash, RemoteConfigStatuses.RemoteConfigStatuses_APPLYING, "");
        if (files.values().stream().anyMatch(text -> ((String) text).contains("fail:"))) {
            report(
                    client,
                    offered.config_hash,
                    RemoteConfigStatuses.RemoteConfigStatuses_FAILED,
                    "the config says so");
            return;
        }
        effective.set(offered.config);
        report(client, offered.config_hash, RemoteConfigStatuses.RemoteConfigStatuses_APPLIED, "");
    }

    private static void report(
            OpampClient client, ByteString hash, RemoteConfigStatuses status, String error) {
        client.setRemoteConfigStatus(
                new RemoteConfigStatus.Builder()
                        .last_remote_config_hash(hash)
                        .status(status)
                        .error_message(error)
                        .build());
        String name = status.name().replace("RemoteConfigStatuses_", "");
        emit("status", Map.of("status", name, "hash", hash.hex()));
    }

    private static AgentDescription description(String service, int connections) {
        return new AgentDescription.Builder()
                .identifying_attributes(
                        List.of(attribute("service.name", service), attribute("service.version", "1.0")))
                .non_identifying_attributes(
                        List.of(
                                attribute("os.type", "linux"),
                                attribute("client", "java"),
                                attribute("connections", Integer.toString(connections))))
                .build();
    }

    private static KeyValue attribute(String key, String value) {
        return new KeyValue.Builder()
                .key(key)
                .value(new AnyValue.Builder().string_value(value).build())
                .build();
    }

    private static synchronized void emit(String event, Map<String, ?> details) {
        Map<String, Object> line = new TreeMap<>(details);
        line.put("event", event);
        System.out.println(json(line));
        System.out.flush();
    }

    private static String json(Object value) {
        StringBuilder text = new StringBuilder();
        if (value instanceof Map<?, ?> map) {
            map.forEach(
                    (name, part) ->
                            text.append(text.isEmpty() ? "" : ",").append(json(name)).append(':').append(json(part)));
            return "{" + text + "}";
        }
        for (char letter : String.valueOf(value).toCharArray()) {
            boolean isPlain = letter >= ' ' && letter != '"' && letter != '\\';
            text.append(isPlain ? String.valueOf(letter) : String.format("\\u%04x", (int) letter));
        }
        return '"' + text.toString() + '"';
    }

    private static RequestService transport(String url, OkHttpClient http, Duration interval) {
        PeriodicDelay retries = RetryPeriodicDelay.create(interval);
        if (url.startsWith("ws")) {
            return WebSocketRequestService.create(OkHttpWebSocket.create(url, http), retries);
        }
        PeriodicDelay polls = PeriodicDelay.ofFixedDuration(interval);
        return HttpRequestService.create(OkHttpSender.create(url, http), polls, retries);
    }

    public static void main(String[] arguments) throws Exception {
        Map<String, String> options = new HashMap<>(Map.of("--interval", "1"));
        for (int at = 0; at + 1 < arguments.length; at += 2) {
            options.put(arguments[at], arguments[at + 1]);
        }
        String url = options.get("--url");
        String service = options.get("--service");
        Duration interval =
                Duration.ofMillis((long) (1000 * Double.parseDouble(options.get("--interval"))));
        OkHttpClient http =
                new OkHttpClient.Builder()
                        .addInterceptor(
                                chain ->
                                        chain.proceed(
                                                chain.request()
                                                        .newBuilder()
                                                        .header("Authorization", "Bearer " + options.get("--token"))
                                                        .build()))
                        .build();
        Agent agent = new Agent(service, url.startsWith("ws"));
        byte[] uid =
                options.containsKey("--uid")
                        ? ByteString.decodeHex(options.get("--uid").replace("-", "")).toByteArray()
                        : OpampClientBuilder.createRandomInstanceUid();
        String text = ByteString.of(uid).hex();
        emit(
                "started",
                Map.of(
                        "instance_uid",
                        text.replaceFirst("(.{8})(.{4})(.{4})(.{4})(.{12})", "$1-$2-$3-$4-$5")));
        OpampClient client =
                OpampClient.builder()
                        .setInstanceUid(uid)
                        .setRequestService(transport(url, http, interval))
                        .putIdentifyingAttribute("service.name", service)
                        .putIdentifyingAttribute("service.version", "1.0")
                        .putNonIdentifyingAttribute("os.type", "linux")
                        .putNonIdentifyingAttribute("client", "java")
                        .enableRemoteConfig()
                        .enableEffectiveConfigReporting()
                        .setEffectiveConfigState(agent.effective)
                        .build(agent);
        System.in.transferTo(java.io.OutputStream.nullOutputStream());
        client.close();
        emit("stopped", Map.of());
        // The threads of the HTTP library would keep the process for a minute.
        System.exit(0);
    }
}
