package main

import (
	"context"
	"crypto/sha256"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/open-telemetry/opamp-go/client"
	"github.com/open-telemetry/opamp-go/client/types"
	"github.com/open-telemetry/opamp-go/protobufs"
)

// The custom capability that the agent announces.
const capability = "com.example.interop"

// Why a configuration is FAILED.
const refused = "the config says so"

// agent is what stays over connections, as a program would keep it: its identity, what it runs, where it connects.
type agent struct {
	service  string
	started  time.Time
	packages *packages
	// Of the server: PEM.
	authorities []byte
	lock        sync.Mutex // of what follows
	opamp       client.OpAMPClient
	uid         uuid.UUID
	server      server
	heartbeat   time.Duration
	effective   *protobufs.AgentConfigMap
	status      *protobufs.RemoteConfigStatus
	// Settings that were offered, and are in use or about to be.
	settingsHash []byte
	key          privateKey
	// Wakes reconnect.
	restarts chan struct{}
}

func newAgent(uid uuid.UUID, service string, heartbeat time.Duration, server server) *agent {
	return &agent{
		service:   service,
		started:   time.Now(),
		packages:  newPackages(),
		uid:       uid,
		server:    server,
		heartbeat: heartbeat,
		effective: &protobufs.AgentConfigMap{},
		restarts:  make(chan struct{}, 1),
	}
}

// connect starts a client of its own for each connection, with what the agent knows.
func (a *agent) connect() error {
	a.lock.Lock()
	server, uid, heartbeat, status, settingsHash := a.server, a.uid, a.heartbeat, a.status, a.settingsHash
	a.lock.Unlock()
	var opamp client.OpAMPClient
	if strings.HasPrefix(server.url, "ws") {
		opamp = client.NewWebSocket(silent{})
	} else {
		opamp = client.NewHTTP(silent{})
	}
	if err := a.describe(opamp); err != nil {
		return err
	}
	settings := types.StartSettings{
		OpAMPServerURL:        server.url,
		Header:                server.headers,
		TLSConfig:             server.tls,
		InstanceUid:           types.InstanceUid(uid),
		HeartbeatInterval:     &heartbeat,
		RemoteConfigStatus:    status,
		PackagesStateProvider: a.packages,
		// The client's SetCapabilities takes none for packages before a start, and a start none without.
		Capabilities: capabilities,
		Callbacks: types.Callbacks{
			OnConnect:                 func(context.Context) { emit("connected", map[string]any{"url": server.url}) },
			OnConnectFailed:           func(_ context.Context, err error) { failed(err) },
			OnMessage:                 func(ctx context.Context, message *types.MessageData) { a.onMessage(ctx, opamp, message) },
			OnCommand:                 a.onCommand,
			OnError:                   a.onError,
			OnOpampConnectionSettings: a.onSettings,
			GetEffectiveConfig:        a.effectiveConfig,
		},
	}
	if settingsHash != nil {
		settings.LastConnectionSettingsStatus = &protobufs.ConnectionSettingsStatus{
			LastConnectionSettingsHash: settingsHash,
			Status:                     protobufs.ConnectionSettingsStatuses_ConnectionSettingsStatuses_APPLIED,
		}
	}
	if err := opamp.Start(context.Background(), settings); err != nil {
		return err
	}
	a.lock.Lock()
	a.opamp = opamp
	a.lock.Unlock()
	return nil
}

// askForUID has the server asked for another uid.
func (a *agent) askForUID() {
	a.lock.Lock()
	opamp := a.opamp
	a.lock.Unlock()
	opamp.SetFlags(protobufs.AgentToServerFlags_AgentToServerFlags_RequestInstanceUid)
}

// describe tells a new client what it is to say of the agent.
func (a *agent) describe(opamp client.OpAMPClient) error {
	description := &protobufs.AgentDescription{
		IdentifyingAttributes:    attributes("service.name", a.service, "service.version", "1.0"),
		NonIdentifyingAttributes: attributes("os.type", "linux", "client", "go"),
	}
	steps := []func() error{
		func() error { return opamp.SetAgentDescription(description) },
		func() error {
			return opamp.SetHealth(&protobufs.ComponentHealth{
				Healthy: true, StartTimeUnixNano: uint64(a.started.UnixNano()),
			})
		},
		func() error { return opamp.SetAvailableComponents(components()) },
		func() error {
			return opamp.SetCustomCapabilities(&protobufs.CustomCapabilities{Capabilities: []string{capability}})
		},
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

const capabilities = protobufs.AgentCapabilities_AgentCapabilities_ReportsStatus |
	protobufs.AgentCapabilities_AgentCapabilities_AcceptsRemoteConfig |
	protobufs.AgentCapabilities_AgentCapabilities_ReportsRemoteConfig |
	protobufs.AgentCapabilities_AgentCapabilities_ReportsEffectiveConfig |
	protobufs.AgentCapabilities_AgentCapabilities_AcceptsPackages |
	protobufs.AgentCapabilities_AgentCapabilities_ReportsPackageStatuses |
	protobufs.AgentCapabilities_AgentCapabilities_AcceptsOpAMPConnectionSettings |
	protobufs.AgentCapabilities_AgentCapabilities_ReportsConnectionSettingsStatus |
	protobufs.AgentCapabilities_AgentCapabilities_AcceptsRestartCommand |
	protobufs.AgentCapabilities_AgentCapabilities_ReportsAvailableComponents |
	protobufs.AgentCapabilities_AgentCapabilities_ReportsHealth |
	protobufs.AgentCapabilities_AgentCapabilities_ReportsHeartbeat

// components are the same for every agent of this program, and so is their hash.
func components() *protobufs.AvailableComponents {
	hash := sha256.Sum256([]byte("interop 1.0"))
	return &protobufs.AvailableComponents{
		Hash: hash[:],
		Components: map[string]*protobufs.ComponentDetails{
			"receivers": {SubComponentMap: map[string]*protobufs.ComponentDetails{
				"otlp": {Metadata: attributes("version", "1.0")},
			}},
		},
	}
}

// disconnect leaves the server, saying so where the client can.
func (a *agent) disconnect() {
	a.lock.Lock()
	opamp := a.opamp
	a.lock.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	failed(opamp.Stop(ctx))
}

// reconnect starts anew whenever it is told to: from the client's callbacks this cannot be done, which it waits for.
func (a *agent) reconnect() {
	for range a.restarts {
		a.disconnect()
		failed(a.connect())
	}
}

func (a *agent) restart() {
	select {
	case a.restarts <- struct{}{}:
	default:
	}
}

func (a *agent) onError(_ context.Context, err *protobufs.ServerErrorResponse) {
	emit("error", map[string]any{"message": err.ErrorMessage})
}

func (a *agent) onCommand(_ context.Context, command *protobufs.ServerToAgentCommand) error {
	emit("command", map[string]any{"type": strings.TrimPrefix(command.Type.String(), "CommandType_")})
	a.restart()
	return nil
}

func (a *agent) onMessage(ctx context.Context, opamp client.OpAMPClient, message *types.MessageData) {
	if identity := message.AgentIdentification; identity != nil {
		if uid, err := uuid.FromBytes(identity.NewInstanceUid); err == nil {
			a.lock.Lock()
			a.uid = uid
			a.lock.Unlock()
			emit("identity", map[string]any{"instance_uid": uid.String()})
		}
	}
	if custom := message.CustomMessage; custom != nil {
		emit("message", map[string]any{
			"capability": custom.Capability, "type": custom.Type, "data": asBase64(custom.Data),
		})
	}
	if hash := message.OfferedConnectionsSettingsHash; hash != nil {
		a.lock.Lock()
		a.settingsHash = hash
		a.lock.Unlock()
	}
	if message.PackagesAvailable != nil {
		emit("packages", map[string]any{"hash": asHex(message.PackagesAvailable.AllPackagesHash)})
		failed(message.PackageSyncer.Sync(ctx))
	}
	if message.RemoteConfig != nil {
		a.onConfig(ctx, opamp, message.RemoteConfig)
	}
}

func (a *agent) onConfig(ctx context.Context, opamp client.OpAMPClient, offered *protobufs.AgentRemoteConfig) {
	files := map[string]string{}
	for name, file := range offered.Config.GetConfigMap() {
		files[name] = string(file.Body)
	}
	says := func(word string) bool {
		for _, text := range files {
			if strings.Contains(text, word) {
				return true
			}
		}
		return false
	}
	emit("config", map[string]any{"hash": asHex(offered.ConfigHash), "files": files})
	a.lock.Lock()
	before := a.status
	a.lock.Unlock()
	a.report(opamp, offered.ConfigHash, protobufs.RemoteConfigStatuses_RemoteConfigStatuses_APPLYING, "")
	if says("rollback:") && before != nil {
		go a.rollBack(opamp, offered.ConfigHash, before.LastRemoteConfigHash)
		return
	}
	if says("fail:") {
		a.report(opamp, offered.ConfigHash, protobufs.RemoteConfigStatuses_RemoteConfigStatuses_FAILED, refused)
		return
	}
	a.lock.Lock()
	a.effective = offered.Config
	a.lock.Unlock()
	a.report(opamp, offered.ConfigHash, protobufs.RemoteConfigStatuses_RemoteConfigStatuses_APPLIED, "")
	failed(opamp.UpdateEffectiveConfig(ctx))
}

// rollBack is what an agent does that tries a configuration, finds after a time that it is no good, and goes back to the
// one before by itself.
func (a *agent) rollBack(opamp client.OpAMPClient, offered, before []byte) {
	time.Sleep(2 * a.heartbeat)
	a.report(opamp, offered, protobufs.RemoteConfigStatuses_RemoteConfigStatuses_FAILED, refused)
	time.Sleep(2 * a.heartbeat)
	a.report(opamp, before, protobufs.RemoteConfigStatuses_RemoteConfigStatuses_APPLIED, "")
}

func (a *agent) report(opamp client.OpAMPClient, hash []byte, is protobufs.RemoteConfigStatuses, message string) {
	status := &protobufs.RemoteConfigStatus{LastRemoteConfigHash: hash, Status: is, ErrorMessage: message}
	if err := opamp.SetRemoteConfigStatus(status); err != nil {
		failed(err)
		return
	}
	a.lock.Lock()
	a.status = status
	a.lock.Unlock()
	name := strings.TrimPrefix(is.String(), "RemoteConfigStatuses_")
	emit("status", map[string]any{"status": name, "hash": asHex(hash)})
}

func (a *agent) effectiveConfig(context.Context) (*protobufs.EffectiveConfig, error) {
	a.lock.Lock()
	defer a.lock.Unlock()
	return &protobufs.EffectiveConfig{ConfigMap: a.effective}, nil
}

// send waits while another message is on its way.
func (a *agent) send(message *protobufs.CustomMessage) error {
	a.lock.Lock()
	opamp := a.opamp
	a.lock.Unlock()
	for {
		sent, err := opamp.SendCustomMessage(message)
		if err != types.ErrCustomMessagePending {
			return err
		}
		<-sent
	}
}

func attributes(pairs ...string) []*protobufs.KeyValue {
	var list []*protobufs.KeyValue
	for i := 0; i+1 < len(pairs); i += 2 {
		value := &protobufs.AnyValue{Value: &protobufs.AnyValue_StringValue{StringValue: pairs[i+1]}}
		list = append(list, &protobufs.KeyValue{Key: pairs[i], Value: value})
	}
	return list
}

func bearer(token string) http.Header {
	return http.Header{"Authorization": []string{"Bearer " + token}}
}
