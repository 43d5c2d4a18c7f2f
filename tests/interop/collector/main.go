// A small OpenTelemetry Collector: the parts that the tests configure, and the extension that speaks OpAMP. The Supervisor that
// runs it is a tool of this module. See ../README.md.
package main

import (
	"fmt"
	"os"

	"github.com/open-telemetry/opentelemetry-collector-contrib/extension/healthcheckextension"
	"github.com/open-telemetry/opentelemetry-collector-contrib/extension/opampextension"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/provider/envprovider"
	"go.opentelemetry.io/collector/confmap/provider/fileprovider"
	"go.opentelemetry.io/collector/confmap/provider/yamlprovider"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/exporter/debugexporter"
	"go.opentelemetry.io/collector/exporter/nopexporter"
	"go.opentelemetry.io/collector/exporter/otlphttpexporter"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/collector/otelcol"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/nopreceiver"
	"go.opentelemetry.io/collector/receiver/otlpreceiver"
	"go.opentelemetry.io/collector/service/telemetry"
	"go.opentelemetry.io/collector/service/telemetry/otelconftelemetry"
)

const version = "0.149.0"

const (
	core    = "go.opentelemetry.io/collector/"
	contrib = "github.com/open-telemetry/opentelemetry-collector-contrib/"
)

// What the collector reports of each available component: where it comes from.
func module(path string) string { return path + " v" + version }

// anyPort differs from the Collector's in one default: the port of the collector's own metrics. Several collectors can then
// run on a machine, whoever configures them.
type anyPort struct{ telemetry.Factory }

func (f anyPort) CreateDefaultConfig() component.Config {
	config := f.Factory.CreateDefaultConfig()
	any := 0
	for _, reader := range config.(*otelconftelemetry.Config).Metrics.Readers {
		reader.Pull.Exporter.Prometheus.Port = &any
	}
	return config
}

func components() (otelcol.Factories, error) {
	factories := otelcol.Factories{Telemetry: anyPort{otelconftelemetry.NewFactory()}}
	var err error
	factories.Extensions, err = otelcol.MakeFactoryMap[extension.Factory](
		opampextension.NewFactory(), healthcheckextension.NewFactory())
	if err != nil {
		return factories, err
	}
	factories.Receivers, err = otelcol.MakeFactoryMap[receiver.Factory](
		otlpreceiver.NewFactory(), nopreceiver.NewFactory())
	if err != nil {
		return factories, err
	}
	factories.Exporters, err = otelcol.MakeFactoryMap[exporter.Factory](
		debugexporter.NewFactory(), nopexporter.NewFactory(), otlphttpexporter.NewFactory())
	if err != nil {
		return factories, err
	}
	factories.ExtensionModules = map[component.Type]string{
		opampextension.NewFactory().Type():       module(contrib + "extension/opampextension"),
		healthcheckextension.NewFactory().Type(): module(contrib + "extension/healthcheckextension"),
	}
	factories.ReceiverModules = map[component.Type]string{
		otlpreceiver.NewFactory().Type(): module(core + "receiver/otlpreceiver"),
		nopreceiver.NewFactory().Type():  module(core + "receiver/nopreceiver"),
	}
	factories.ExporterModules = map[component.Type]string{
		debugexporter.NewFactory().Type():    module(core + "exporter/debugexporter"),
		nopexporter.NewFactory().Type():      module(core + "exporter/nopexporter"),
		otlphttpexporter.NewFactory().Type(): module(core + "exporter/otlphttpexporter"),
	}
	return factories, nil
}

func main() {
	settings := otelcol.CollectorSettings{
		BuildInfo: component.BuildInfo{Command: "otelcol", Description: "OpenTelemetry Collector", Version: version},
		Factories: components,
		ConfigProviderSettings: otelcol.ConfigProviderSettings{ResolverSettings: confmap.ResolverSettings{
			ProviderFactories: []confmap.ProviderFactory{
				envprovider.NewFactory(), fileprovider.NewFactory(), yamlprovider.NewFactory(),
			},
		}},
	}
	if err := otelcol.NewCommand(settings).Execute(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
