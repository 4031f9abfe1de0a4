"""The Kubernetes operator for FineTuneJobs. `finetune run` needs none."""
