#!/usr/bin/env bash
# Gets the files of an unencrypted Statehold repository back without Statehold.
#
#   REPO=/path/to/repository OUT=/path/to/new/folder bash recover.sh
#   AT=17 REPO=… OUT=… bash recover.sh        as of record 17
#
# Needs bash, zstd, jq, head and tail. Checks content with sha256sum, and with b3sum where it is installed.
# docs/recovery-by-hand.md explains each step.
set -eu
: "${REPO:?the folder that holds repository.json}" "${OUT:?a folder that does not exist yet}"
[ -f "$REPO/repository.json" ] || { echo "no repository.json in $REPO" >&2; exit 1; }
[ ! -e "$OUT" ] || { echo "$OUT is there already" >&2; exit 1; }
jq -e '.format == 1 and .codec == "zstd" and .cipher == "none"' "$REPO/repository.json" >/dev/null ||
    { echo "the format is another one than this script reads" >&2; exit 1; }
mkdir -p "$OUT"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# From byte $2 of file $1 on, $3 bytes.
part() { tail -c "+$(($2 + 1))" "$1" | head -c "$3"; }

# 1. The bodies of all records, in order, each line with its record's number and the place of its content.
number=0
: >"$work/lines"
while :; do
    [ "$((number + 1))" -le "${AT:-999999999999}" ] || break
    name=$(printf 'log/%020d' "$((number + 1))")
    [ -f "$REPO/$name" ] || break
    number=$((number + 1))
    # The envelope is the first frame, and one line. What stands after it in the object is of known length.
    envelope=$(zstd -dcq "$REPO/$name" 2>/dev/null | head -n 1)
    size=$(wc -c <"$REPO/$name")
    content=$(printf '%s' "$envelope" | jq .content_bytes)
    body=$(printf '%s' "$envelope" | jq .body_bytes)
    kind=$(printf '%s' "$envelope" | jq -r .kind)
    [ "$(printf '%s' "$envelope" | jq .number)" = "$number" ] || { echo "$name is damaged" >&2; exit 1; }
    case "$kind" in
    push) ;;
    note) continue ;;
    *) if [ "$(printf '%s' "$envelope" | jq .critical)" = true ]; then
           echo "$name is of kind $kind, which this script does not know" >&2; exit 1
       fi; continue ;;
    esac
    part "$REPO/$name" "$((size - content - body))" "$body" | zstd -dcq | tail -n +2 |
        jq -c --arg in "$name" --argjson start "$((size - content))" '. + {in: $in, start: $start}' >>"$work/lines"
done
if later=$(printf 'log/%020d' "$((number + 1))") && [ -z "${AT:-}" ] &&
    ls "$REPO/log" | LC_ALL=C awk -v next_name="${later#log/}" \
        'length($0) == 20 && $0 > next_name { found = 1 } END { exit !found }'; then
    echo "$later is missing and later records are there; going on with what is before it" >&2
fi
[ "$number" -gt 0 ] || { echo "the log is empty" >&2; exit 1; }

# 2. The fold: path -> entry, with every chunk in an object and at an offset of its own.
jq -n 'reduce inputs as $line ({};
    $line.path as $path
    | if $line.type == "delete" then del(.[$path])
      elif $line.type == "file" then
        (if $line.keep then .[$path].chunks[:$line.keep] else [] end) as $kept
        | .[$path] = ($line | del(.path, .in, .start, .keep))
        | .[$path].chunks = $kept + [($line.chunks // [])[]
            | if .in then . else . + {in: $line.in, offset: (.offset + $line.start)} end]
      else .[$path] = ($line | del(.path, .in, .start)) end)' "$work/lines" >"$work/tree"

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
