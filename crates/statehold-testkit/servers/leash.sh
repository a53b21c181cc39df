#!/bin/sh
# Runs a program for as long as standard input stays open, so that it never outlives the test that
# holds the other end, however that test ends.
# usage: leash.sh PROGRAM [ARGUMENT...]
set -u
"$@" </dev/null &
program=$!
read -r _
kill -9 "$program" 2>/dev/null
wait "$program" 2>/dev/null
