package deploy

import (
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/conclave-chat/conclave/internal/telemetry"
)

// alertFile is the format of a Prometheus rule file.
type alertFile struct {
	Groups []struct {
		Name  string `yaml:"name"`
		Rules []struct {
			Alert       string            `yaml:"alert"`
			Expr        string            `yaml:"expr"`
			For         string            `yaml:"for"`
			Labels      map[string]string `yaml:"labels"`
			Annotations map[string]string `yaml:"annotations"`
		} `yaml:"rules"`
	} `yaml:"groups"`
}

// Every metric and every label that an alert asks for is on a host's page, and
// each alert tells the engineer on call what to do.
func TestAlertsAskForWhatIsExported(t *testing.T) {
	exporter, err := telemetry.Prometheus()
	if err != nil {
		t.Fatal(err)
	}
	tel, err := telemetry.New(telemetry.Config{MeterProvider: exporter.MeterProvider()})
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range []*telemetry.Histogram{&tel.PublishLatency, &tel.SaveLatency, &tel.RequestLatency} {
		h.Observe(time.Millisecond) // a histogram shows itself once it has something
	}
	w := httptest.NewRecorder()
	exporter.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	page := w.Body.String()
	if err := tel.Close(); err != nil {
		t.Error(err)
	}

	var f alertFile
	parse(t, "alerts.yaml", &f)
	seen := map[string]bool{}
	name := regexp.MustCompile(`\b(?:conclave|go|process)_\w+`)
	by := regexp.MustCompile(`by \(([^)]*)\)`)
	for _, g := range f.Groups {
		for _, r := range g.Rules {
			if seen[r.Alert] || !strings.HasPrefix(r.Alert, "Conclave") {
				t.Errorf("alert %q: twice, or without its prefix", r.Alert)
			}
			seen[r.Alert] = true
			metrics := name.FindAllString(r.Expr, -1)
			if len(metrics) == 0 && !strings.HasPrefix(r.Expr, `up{job="`+g.Name+`"}`) {
				t.Errorf("%s asks for nothing of ours: %s", r.Alert, r.Expr)
			}
			for _, m := range metrics {
				series := regexp.MustCompile(`(?m)^` + m + `(\{[^}]*\})? `).FindString(page)
				if series == "" {
					t.Errorf("%s asks for %s, which no host exports", r.Alert, m)
				}
				for _, labels := range by.FindAllStringSubmatch(r.Expr, -1) {
					for _, l := range strings.Split(labels[1], ", ") {
						if l != "instance" && !strings.Contains(series, l+"=") {
							t.Errorf("%s groups %s by %s, which it does not have", r.Alert, m, l)
						}
					}
				}
			}
			if strings.Count(r.Expr, "(") != strings.Count(r.Expr, ")") {
				t.Errorf("%s: %s", r.Alert, r.Expr)
			}
			if r.For != "" {
				if _, err := time.ParseDuration(r.For); err != nil {
					t.Errorf("%s: %v", r.Alert, err)
				}
			}
			if !slices.Contains([]string{"page", "ticket"}, r.Labels["severity"]) {
				t.Errorf("%s has the severity %q", r.Alert, r.Labels["severity"])
			}
			for _, key := range []string{"summary", "runbook"} {
				if !strings.HasSuffix(r.Annotations[key], ".") {
					t.Errorf("%s has no %s sentence", r.Alert, key)
				}
			}
		}
	}
	if len(seen) < 9 {
		t.Errorf("%d alerts", len(seen))
	}
}
