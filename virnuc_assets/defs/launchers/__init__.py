"""Where runs and steps run: `local` on this machine, `slurm` as jobs of a cluster, `steps` in the run or in pods."""
