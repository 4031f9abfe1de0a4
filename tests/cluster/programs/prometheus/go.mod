module finetune.dev/tests/cluster/programs/prometheus

go 1.26.0

// Nothing of it is built: the chart's PodMonitor is tested with its CRD.
require github.com/prometheus-operator/prometheus-operator v0.85.0
