package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"sync"

	"github.com/open-telemetry/opamp-go/client/types"
	"github.com/open-telemetry/opamp-go/protobufs"
)

// packages is where the client's syncer keeps what it has downloaded.
type packages struct {
	lock     sync.Mutex
	all      []byte
	states   map[string]types.PackageState
	contents map[string][]byte
	statuses *protobufs.PackageStatuses
}

func newPackages() *packages {
	return &packages{states: map[string]types.PackageState{}, contents: map[string][]byte{}}
}

func (p *packages) AllPackagesHash() ([]byte, error) {
	p.lock.Lock()
	defer p.lock.Unlock()
	return p.all, nil
}

func (p *packages) SetAllPackagesHash(hash []byte) error {
	p.lock.Lock()
	defer p.lock.Unlock()
	p.all = hash
	emit("synced", map[string]any{"hash": asHex(hash)})
	return nil
}

func (p *packages) Packages() ([]string, error) {
	p.lock.Lock()
	defer p.lock.Unlock()
	var names []string
	for name := range p.states {
		names = append(names, name)
	}
	return names, nil
}

func (p *packages) PackageState(name string) (types.PackageState, error) {
	p.lock.Lock()
	defer p.lock.Unlock()
	return p.states[name], nil
}

func (p *packages) SetPackageState(name string, state types.PackageState) error {
	p.lock.Lock()
	defer p.lock.Unlock()
	state.Exists = true
	p.states[name] = state
	emit("package", map[string]any{
		"name": name, "version": state.Version, "hash": asHex(state.Hash), "content": string(p.contents[name]),
	})
	return nil
}

func (p *packages) CreatePackage(name string, kind protobufs.PackageType) error {
	p.lock.Lock()
	defer p.lock.Unlock()
	p.states[name] = types.PackageState{Exists: true, Type: kind}
	return nil
}

func (p *packages) FileContentHash(name string) ([]byte, error) {
	p.lock.Lock()
	defer p.lock.Unlock()
	content, exists := p.contents[name]
	if !exists {
		return nil, nil
	}
	hash := sha256.Sum256(content)
	return hash[:], nil
}

// UpdateContent takes a download if it is what was offered, and is not meant to fail.
func (p *packages) UpdateContent(_ context.Context, name string, data io.Reader, hash, _ []byte) error {
	content, err := io.ReadAll(data)
	if err != nil {
		return err
	}
	if got := sha256.Sum256(content); !bytes.Equal(got[:], hash) {
		return fmt.Errorf("%s has the hash %x in place of %x", name, got, hash)
	}
	if bytes.Contains(content, []byte("fail:")) {
		return fmt.Errorf("the package says so")
	}
	p.lock.Lock()
	defer p.lock.Unlock()
	p.contents[name] = content
	return nil
}

func (p *packages) DeletePackage(name string) error {
	p.lock.Lock()
	defer p.lock.Unlock()
	delete(p.states, name)
	delete(p.contents, name)
	emit("package", map[string]any{"name": name, "deleted": true})
	return nil
}

func (p *packages) LastReportedStatuses() (*protobufs.PackageStatuses, error) {
	p.lock.Lock()
	defer p.lock.Unlock()
	return p.statuses, nil
}

func (p *packages) SetLastReportedStatuses(statuses *protobufs.PackageStatuses) error {
	p.lock.Lock()
	defer p.lock.Unlock()
	p.statuses = statuses
	return nil
}
