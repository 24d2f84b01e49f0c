#!/bin/sh
# Everything that needs a GPU, unattended, in under half an hour: tools/gpu_check.sh [--out FOLDER] [--tiny] [--only STEP ...]
# Stopped and started again, it goes on after the last finished step. --tiny runs the smallest sizes on the CPU.
cd "$(dirname "$0")/.." && exec "${PYTHON:-.venv/bin/python}" tools/gpu_check.py "$@"
