#!/usr/bin/env bash
# Gets the files of an unencrypted Statehold repository back without Statehold.
#
#   REPO=/path/to/repository OUT=/path/to/new/folder bash recover.sh
#   AT=17 REPO=… OUT=… bash recover.sh        as of record 17
#   AT=before-the-rewrite …                   as a snapshot has it, by its label or its whole name
#   AT=2026-04-15T18:00:00Z …                 as of a moment
#   LIST=1 REPO=… bash recover.sh             only say which records and snapshots there are
#
# Needs bash, zstd, jq, head and tail. Checks content with sha256sum, and with b3sum where it is installed.
# docs/recovery-by-hand.md explains each step.
set -eu
: "${REPO:?the folder that holds repository.json}"
[ -n "${LIST:-}" ] || : "${OUT:?a folder that does not exist yet}"
[ -f "$REPO/repository.json" ] || { echo "no repository.json in $REPO" >&2; exit 1; }
[ -n "${LIST:-}" ] || [ ! -e "$OUT" ] || { echo "$OUT is there already" >&2; exit 1; }
jq -e '.format == 1 and .codec == "zstd" and .cipher == "none"' "$REPO/repository.json" >/dev/null ||
    { echo "the format is another one than this script reads" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# From byte $2 of file $1 on, $3 bytes.
part() { tail -c "+$(($2 + 1))" "$1" | head -c "$3"; }

# 1. The bodies of all records, in order, each line with its record's number and the place of its content; and what
#    the log says about snapshots, each with the record that it names.
last=999999999999 until='' wanted=''
case "${AT:-}" in
'') ;;
*[!0-9]*) case "$AT" in
    # A moment, and not a snapshot's name: that has no colon. Milliseconds, as records have them.
    ????-??-??T*:*.???Z) until=$AT ;;
    ????-??-??T*:*Z) until=${AT%Z}.000Z ;;
    *) wanted=$AT ;;
    esac ;;
*) last=$AT ;;
esac
number=0
: >"$work/lines"
: >"$work/snapshots"
: >"$work/times"
while :; do
    [ "$((number + 1))" -le "$last" ] || break
    name=$(printf 'log/%020d' "$((number + 1))")
    [ -f "$REPO/$name" ] || break
    # The envelope is the first frame, and one line. What stands after it in the object is of known length.
    envelope=$(zstd -dcq "$REPO/$name" 2>/dev/null | head -n 1)
    read -r found time content body critical kind <<<"$(printf '%s' "$envelope" |
        jq -r '"\(.number) \(.time) \(.content_bytes) \(.body_bytes) \(.critical) \(.kind)"')"
    [ "$found" = "$((number + 1))" ] || { echo "$name is damaged" >&2; exit 1; }
    # Times of one length sort as text.
    [ -z "$until" ] || ! [ "$time" \> "$until" ] || break
    number=$found
    size=$(wc -c <"$REPO/$name")
    echo "$number $time $kind" >>"$work/times"
    body() { part "$REPO/$name" "$((size - content - body))" "$body" | zstd -dcq; }
    case "$kind" in
    push) ;;
    # A name for an earlier record.
    snapshot) body | jq -r '"\(.at) \(.id)"' >>"$work/snapshots"; continue ;;
    # Entries put back, and a name for how things were just before.
    rollback) body | head -n 1 | jq -r '"\(.base.number) \(.before)"' >>"$work/snapshots" ;;
    # Names that are needed no longer. The records that they named are there all the same.
    forget) body | jq -r '.snapshots[]' >"$work/forgotten"
        awk 'NR == FNR { gone[$0]; next } !($2 in gone)' "$work/forgotten" "$work/snapshots" >"$work/kept"
        mv "$work/kept" "$work/snapshots"; continue ;;
    note | backup) continue ;;
    *) if [ "$critical" = true ]; then
           echo "$name is of kind $kind, which this script does not know" >&2; exit 1
       fi; continue ;;
    esac
    body | tail -n +2 | jq -c --arg in "$name" --argjson start "$((size - content))" --argjson record "$number" \
        '. + {in: $in, start: $start, record: $record}' >>"$work/lines"
done
if later=$(printf 'log/%020d' "$((number + 1))") && [ -z "$until" ] && [ "$last" = 999999999999 ] &&
    ls "$REPO/log" | LC_ALL=C awk -v next_name="${later#log/}" \
        'length($0) == 20 && $0 > next_name { found = 1 } END { exit !found }'; then
    echo "$later is missing and later records are there; going on with what is before it" >&2
fi
[ "$number" -gt 0 ] || { echo "the log is empty, or begins later" >&2; exit 1; }
if [ -n "${LIST:-}" ]; then
    awk '{ print "record " $1 "  " $2 "  " $3 }' "$work/times"
    awk '{ print "snapshot " $2 "  of record " $1 }' "$work/snapshots"
    exit 0
fi
if [ -n "$wanted" ]; then
    # By the whole name, or by what stands after the time in it.
    awk -v name="$wanted" '$2 == name || substr($2, 22) == name { print $1, $2 }' "$work/snapshots" >"$work/found"
    case "$(wc -l <"$work/found")" in
    *1) read -r number name <"$work/found" ;;
    *) echo "snapshots called $wanted:" >&2; cut -d ' ' -f 2 "$work/found" >&2; exit 1 ;;
    esac
    jq -c --argjson last "$number" 'select(.record <= $last)' "$work/lines" >"$work/up-to"
    mv "$work/up-to" "$work/lines"
fi
mkdir -p "$OUT"

# 2. The fold: path -> entry, with every chunk in an object and at an offset of its own.
jq -n 'reduce inputs as $line ({};
    $line.path as $path
    | if $line.type == "delete" then del(.[$path])
      elif $line.type == "file" then
        (if $line.keep then .[$path].chunks[:$line.keep] else [] end) as $kept
        | .[$path] = ($line | del(.path, .in, .start, .record, .keep))
        | .[$path].chunks = $kept + [($line.chunks // [])[]
            | if .in then . else . + {in: $line.in, offset: (.offset + $line.start)} end]
      else .[$path] = ($line | del(.path, .in, .start, .record)) end)' "$work/lines" >"$work/tree"

# 3. Folders, then files chunk by chunk, then links: nothing is ever written through a link.
#    Fields end with a null byte, since names may hold anything else.
safe() {
    case "/$1/" in
    *//* | */../* | */./*) echo "a path leads elsewhere: $1" >&2; exit 1 ;;
    esac
}
fields() {
    jq -j "to_entries[] | select(.value.type == \"$1\") | ($2) | map(tostring + \"\\u0000\") | add" "$work/tree"
}

fields directory '[.key]' >"$work/directories"
while IFS= read -r -d '' path; do
    safe "$path"
    mkdir -p "$OUT/$path"
done <"$work/directories"

fields file '[.key, .value.size, .value.sha256 // "", .value.blake3, .value.executable // false, .value.mtime // "",
    (.value.chunks | length), (.value.chunks[] | .in, .offset, .stored)]' >"$work/files"
files=0 bad=0
while IFS= read -r -d '' path; do
    safe "$path"
    read -r -d '' size; read -r -d '' sha256; read -r -d '' blake3
    read -r -d '' executable; read -r -d '' mtime; read -r -d '' chunks
    case "$path" in */*) mkdir -p "$OUT/${path%/*}" ;; esac
    : >"$OUT/$path"
    while [ "$chunks" -gt 0 ]; do
        read -r -d '' object; read -r -d '' offset; read -r -d '' stored
        safe "$object"
        part "$REPO/$object" "$offset" "$stored" 2>"$work/why" | zstd -dcq >>"$OUT/$path" 2>>"$work/why" ||
            echo "$object, byte $offset: $(head -n 1 "$work/why")" >&2
        chunks=$((chunks - 1))
    done
    ok=yes
    [ "$(wc -c <"$OUT/$path")" -eq "$size" ] || ok=no
    if [ -n "$sha256" ] && command -v sha256sum >/dev/null; then
        [ "$(sha256sum <"$OUT/$path" | head -c 64)" = "$sha256" ] || ok=no
    fi
    if command -v b3sum >/dev/null; then
        [ "$(b3sum --no-names <"$OUT/$path")" = "$blake3" ] || ok=no
    fi
    [ "$executable" = false ] || chmod +x "$OUT/$path"
    [ -z "$mtime" ] || touch -d "$mtime" "$OUT/$path" 2>/dev/null || true
    files=$((files + 1))
    if [ "$ok" = no ]; then
        bad=$((bad + 1))
        echo "damaged: $path" >&2
    fi
done <"$work/files"

fields symlink '[.key, .value.target]' >"$work/links"
while IFS= read -r -d '' path; do
    safe "$path"
    IFS= read -r -d '' target
    case "$path" in */*) mkdir -p "$OUT/${path%/*}" ;; esac
    ln -s "$target" "$OUT/$path"
done <"$work/links"

echo "record $number: $files files in $OUT, $bad damaged"
[ "$bad" -eq 0 ]
