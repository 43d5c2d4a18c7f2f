// An agent made of opamp-go, the client of the OpenTelemetry Collector. See ../README.md.
package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/google/uuid"
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

func failed(err error) {
	if err != nil {
		emit("error", map[string]any{"message": err.Error()})
	}
}

// An order is a line of standard input.
type order struct {
	Do         string
	Capability string
	Type       string
	Data       string
	// For the same key as before.
	Same bool
}

// obey carries out one order.
func (a *agent) obey(line []byte) error {
	var order order
	if err := json.Unmarshal(line, &order); err != nil {
		return err
	}
	switch order.Do {
	case "send":
		return a.send(&protobufs.CustomMessage{
			Capability: order.Capability,
			Type:       order.Type,
			Data:       []byte(order.Data),
		})
	case "certificate":
		return a.askForCertificate(order.Same)
	case "uid":
		a.askForUID()
		return nil
	default:
		return fmt.Errorf("unknown order %q", order.Do)
	}
}

func run() error {
	url := flag.String("url", "", "")
	token := flag.String("token", "", "")
	service := flag.String("service", "", "")
	interval := flag.Float64("interval", 1, "")
	fixed := flag.String("uid", "", "")
	ca := flag.String("ca", "", "")
	flag.Parse()

	uid, err := uuid.NewV7()
	if *fixed != "" {
		uid, err = uuid.Parse(*fixed)
	}
	if err != nil {
		return err
	}
	heartbeat := time.Duration(*interval * float64(time.Second))
	var authorities []byte
	if *ca != "" {
		if authorities, err = os.ReadFile(*ca); err != nil {
			return err
		}
	}
	config, err := trusting(authorities)
	if err != nil {
		return err
	}
	a := newAgent(uid, *service, heartbeat, server{url: *url, headers: bearer(*token), tls: config})
	a.authorities = authorities
	emit("started", map[string]any{"instance_uid": uid.String()})
	if err := a.connect(); err != nil {
		return err
	}
	go a.reconnect()
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		failed(a.obey(lines.Bytes()))
	}
	a.disconnect()
	emit("stopped", nil)
	return nil
}

func asHex(hash []byte) string    { return hex.EncodeToString(hash) }
func asBase64(data []byte) string { return base64.StdEncoding.EncodeToString(data) }

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
