#!/bin/sh
# The demo of `make demo`: capped alanine, all its atoms ML, in a box of TIP3P water, 2 ps at 300 K.
set -eu
bin=${STACK_BIN:?directory of the environment\'s programs}
folder=demo-output/$(date +%Y%m%d-%H%M%S)
mkdir -p "$folder"
"$bin/python" examples/make_alanine_dipeptide.py "$folder/alanine-dipeptide.pdb"
"$bin/openmm-les" simulate "$folder/alanine-dipeptide.pdb" \
    --ml "not water" --solvate --padding 0.9 \
    --ensemble nvt --temperature 300 --ps 2 --seed 1 --output "$folder/run"
