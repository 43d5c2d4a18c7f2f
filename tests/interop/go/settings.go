package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"net/http"
	"time"

	"github.com/open-telemetry/opamp-go/protobufs"
)

type privateKey = *ecdsa.PrivateKey

// server is where the agent connects, and how.
type server struct {
	url     string
	headers http.Header
	tls     *tls.Config
}

// onSettings takes offered settings whole: what they leave out is not kept. Without an endpoint they are about the
// heartbeat alone, which the client sees to.
func (a *agent) onSettings(_ context.Context, offered *protobufs.OpAMPConnectionSettings) error {
	headers := http.Header{}
	for _, header := range offered.GetHeaders().GetHeaders() {
		headers.Add(header.Key, header.Value)
	}
	emit("settings", map[string]any{
		"endpoint":    offered.DestinationEndpoint,
		"headers":     headers,
		"heartbeat":   offered.HeartbeatIntervalSeconds,
		"certificate": string(offered.GetCertificate().GetCert()),
	})
	if offered.DestinationEndpoint == "" {
		return nil
	}
	a.lock.Lock()
	defer a.lock.Unlock()
	next := server{url: offered.DestinationEndpoint, headers: headers}
	var err error
	if next.tls, err = a.tlsOf(offered); err != nil {
		return err
	}
	a.server = next
	a.heartbeat = time.Duration(offered.HeartbeatIntervalSeconds) * time.Second
	a.restart()
	return nil
}

// tlsOf is for a certificate that came with its key, or that is for the key that the agent made itself. The server is
// believed if an authority that was offered for that, or else the one that the agent was started with, has signed for it.
func (a *agent) tlsOf(offered *protobufs.OpAMPConnectionSettings) (*tls.Config, error) {
	authorities := a.authorities
	if pem := offered.GetTls().GetCaPemContents(); pem != "" {
		authorities = []byte(pem)
	}
	config, err := trusting(authorities)
	if err != nil {
		return nil, err
	}
	certificate := offered.Certificate
	if len(certificate.GetCert()) > 0 {
		key := certificate.PrivateKey
		if len(key) == 0 {
			if a.key == nil {
				return nil, fmt.Errorf("a certificate was offered without a key, and none was asked for")
			}
			der, err := x509.MarshalPKCS8PrivateKey(a.key)
			if err != nil {
				return nil, err
			}
			key = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
		}
		pair, err := tls.X509KeyPair(certificate.Cert, key)
		if err != nil {
			return nil, err
		}
		if config == nil {
			config = &tls.Config{}
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// trusting is nil without authorities (PEM): a client that is given a tls.Config takes ws for wss.
func trusting(authorities []byte) (*tls.Config, error) {
	if len(authorities) == 0 {
		return nil, nil
	}
	config := &tls.Config{RootCAs: x509.NewCertPool()}
	if !config.RootCAs.AppendCertsFromPEM(authorities) {
		return nil, fmt.Errorf("there is no certificate of an authority")
	}
	return config, nil
}

// askForCertificate makes a key, unless there is one to be used again, and has the server asked for a certificate for it.
func (a *agent) askForCertificate(same bool) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	a.lock.Lock()
	if same && a.key != nil {
		key = a.key
	}
	a.key = key
	uid, opamp := a.uid, a.opamp
	a.lock.Unlock()
	template := &x509.CertificateRequest{Subject: pkix.Name{CommonName: uid.String()}}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		return err
	}
	return opamp.RequestConnectionSettings(&protobufs.ConnectionSettingsRequest{
		Opamp: &protobufs.OpAMPConnectionSettingsRequest{
			CertificateRequest: &protobufs.CertificateRequest{
				Csr: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
			},
		},
	})
}
