// An agent made of opamp-go, the client of the OpenTelemetry Collector. See ../README.md.
package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/open-telemetry/opamp-go/client"
	"github.com/open-telemetry/opamp-go/client/types"
	"github.com/open-telemetry/opamp-go/protobufs"
)

type silent struct{}

func (silent) Debugf(context.Context, string, ...any) {}
func (silent) Errorf(context.Context, string, ...any) {}

var printing sync.Mutex

func emit(event string, details map[string]any) {
	line := map[string]any{"event": event}
	for name, value := range details {
		line[name] = value
	}
	printing.Lock()
	defer printing.Unlock()
	_ = json.NewEncoder(os.Stdout).Encode(line)
}

type agent struct {
	opamp     client.OpAMPClient
	lock      sync.Mutex
	effective *protobufs.AgentConfigMap
}

func (a *agent) onMessage(ctx context.Context, message *types.MessageData) {
	if message.RemoteConfig == nil {
		return
	}
	offered := message.RemoteConfig
	files := map[string]string{}
	isBad := false
	for name, file := range offered.Config.GetConfigMap() {
		files[name] = string(file.Body)
		isBad = isBad || strings.Contains(string(file.Body), "fail:")
	}
	emit("config", map[string]any{"hash": hex.EncodeToString(offered.ConfigHash), "files": files})
	a.report(offered.ConfigHash, protobufs.RemoteConfigStatuses_RemoteConfigStatuses_APPLYING, "")
	if isBad {
		a.report(offered.ConfigHash, protobufs.RemoteConfigStatuses_RemoteConfigStatuses_FAILED, "the config says so")
		return
	}
	a.lock.Lock()
	a.effective = offered.Config
	a.lock.Unlock()
	a.report(offered.ConfigHash, protobufs.RemoteConfigStatuses_RemoteConfigStatuses_APPLIED, "")
	if err := a.opamp.UpdateEffectiveConfig(ctx); err != nil {
		emit("error", map[string]any{"message": err.Error()})
	}
}

func (a *agent) report(hash []byte, status protobufs.RemoteConfigStatuses, message string) {
	err := a.opamp.SetRemoteConfigStatus(&protobufs.RemoteConfigStatus{
		LastRemoteConfigHash: hash,
		Status:               status,
		ErrorMessage:         message,
	})
	if err != nil {
		emit("error", map[string]any{"message": err.Error()})
		return
	}
	name := strings.TrimPrefix(status.String(), "RemoteConfigStatuses_")
	emit("status", map[string]any{"status": name, "hash": hex.EncodeToString(hash)})
}

func (a *agent) effectiveConfig(context.Context) (*protobufs.EffectiveConfig, error) {
	a.lock.Lock()
	defer a.lock.Unlock()
	return &protobufs.EffectiveConfig{ConfigMap: a.effective}, nil
}

func attributes(pairs ...string) []*protobufs.KeyValue {
	var list []*protobufs.KeyValue
	for i := 0; i+1 < len(pairs); i += 2 {
		value := &protobufs.AnyValue{Value: &protobufs.AnyValue_StringValue{StringValue: pairs[i+1]}}
		list = append(list, &protobufs.KeyValue{Key: pairs[i], Value: value})
	}
	return list
}

func run() error {
	url := flag.String("url", "", "")
	token := flag.String("token", "", "")
	service := flag.String("service", "", "")
	interval := flag.Float64("interval", 1, "")
	flag.Parse()

	a := &agent{effective: &protobufs.AgentConfigMap{}}
	if strings.HasPrefix(*url, "ws") {
		a.opamp = client.NewWebSocket(silent{})
	} else {
		a.opamp = client.NewHTTP(silent{})
	}
	uid, err := uuid.NewV7()
	if err != nil {
		return err
	}
	description := &protobufs.AgentDescription{
		IdentifyingAttributes:    attributes("service.name", *service, "service.version", "1.0"),
		NonIdentifyingAttributes: attributes("os.type", "linux", "client", "go"),
	}
	capabilities := protobufs.AgentCapabilities_AgentCapabilities_ReportsStatus |
		protobufs.AgentCapabilities_AgentCapabilities_AcceptsRemoteConfig |
		protobufs.AgentCapabilities_AgentCapabilities_ReportsRemoteConfig |
		protobufs.AgentCapabilities_AgentCapabilities_ReportsEffectiveConfig |
		protobufs.AgentCapabilities_AgentCapabilities_ReportsHealth |
		protobufs.AgentCapabilities_AgentCapabilities_ReportsHeartbeat
	if err := a.opamp.SetAgentDescription(description); err != nil {
		return err
	}
	health := &protobufs.ComponentHealth{Healthy: true, StartTimeUnixNano: uint64(time.Now().UnixNano())}
	if err := a.opamp.SetHealth(health); err != nil {
		return err
	}
	if err := a.opamp.SetCapabilities(&capabilities); err != nil {
		return err
	}
	heartbeat := time.Duration(*interval * float64(time.Second))
	emit("started", map[string]any{"instance_uid": uid.String()})
	err = a.opamp.Start(context.Background(), types.StartSettings{
		OpAMPServerURL:    *url,
		Header:            http.Header{"Authorization": []string{"Bearer " + *token}},
		InstanceUid:       types.InstanceUid(uid),
		HeartbeatInterval: &heartbeat,
		Callbacks: types.Callbacks{
			OnConnect: func(context.Context) { emit("connected", nil) },
			OnConnectFailed: func(_ context.Context, err error) {
				emit("error", map[string]any{"message": err.Error()})
			},
			OnError: func(_ context.Context, err *protobufs.ServerErrorResponse) {
				emit("error", map[string]any{"message": err.ErrorMessage})
			},
			OnMessage:          a.onMessage,
			GetEffectiveConfig: a.effectiveConfig,
		},
	})
	if err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := a.opamp.Stop(ctx); err != nil {
		return err
	}
	emit("stopped", nil)
	return nil
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
