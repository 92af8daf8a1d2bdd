# shellcheck shell=bash
# Which TPU all scripts of this folder mean; source'd by them. Values from the environment win.
NAME=${NAME:-mer-jax}
ZONE=${ZONE:?set ZONE, as in ZONE=us-central2-b}
TYPE=${TYPE:-v5litepod-8}             # v5litepod-8 is one machine; -16 and more are pods of several
VERSION=${VERSION:-v2-alpha-tpuv5-lite} # the runtime that belongs to TYPE
SPOT=${SPOT:-}                         # yes: cheaper, and may be taken away at any time
export NAME ZONE TYPE VERSION SPOT
