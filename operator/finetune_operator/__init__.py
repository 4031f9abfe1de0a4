"""The Kubernetes operator for FineTuneJobs. It is not written yet: its own issue builds it. `finetune run` needs none."""
