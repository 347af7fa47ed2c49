"""Starts many trainers: on this machine, under Slurm, under Kubernetes.

It imports neither TensorFlow nor `trainer`, so that it answers at once and runs on a login node without either.
"""
