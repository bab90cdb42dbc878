#!/bin/sh
# Name of the node that runs this task; a binary task of the plain pool.
echo "${SLURMD_NODENAME:-$(hostname)}"
