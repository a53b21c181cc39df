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
fail() { echo "$*" >&2; exit 1; }
[ -f "$REPO/repository.json" ] || fail "no repository.json in $REPO"
[ -n "${LIST:-}" ] || [ ! -e "$OUT" ] || fail "$OUT is there already"
jq -e '.format == 1 and .codec == "zstd" and .cipher == "none"' "$REPO/repository.json" >/dev/null ||
    fail "the format is another one than this script reads"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# From byte $2 of file $1 on, $3 bytes.
part() { tail -c "+$(($2 + 1))" "$1" | head -c "$3"; }
# Where record $1 lies.
record() { printf 'log/%020d' "$1"; }

# 1. The envelopes of all records: each is the first frame, and one line. What stands after it in the object is of
#    known length; of a retired record nothing does.
declare -a parents=() times=() kinds=() criticals=() bodies=() contents=()
for file in "$REPO"/log/????????????????????; do
    { envelope=$(zstd -dcq "$file" | head -n 1); } 2>/dev/null
    printf '%s %s\n' "${file##*/}" "$envelope"
done | jq -rR 'capture("^(?<name>[0-9]+) (?<line>.*)$") | (.name | tonumber) as $name
    | (.line | try fromjson catch null) | select(.number? == $name)
    | "\(.number) \(.parent) \(.time) \(.kind) \(.critical) \(.body_bytes) \(.content_bytes)"' >"$work/records"
while read -r n parent time kind critical body content; do
    parents[n]=$parent times[n]=$time kinds[n]=$kind criticals[n]=$critical bodies[n]=$body contents[n]=$content
done <"$work/records"

# The body of record $1.
body() {
    local file start
    file=$REPO/$(record "$1")
    start=$(($(wc -c <"$file") - contents[$1] - bodies[$1]))
    [ "$start" -gt 16 ] && part "$file" "$start" "${bodies[$1]}" | zstd -dcq 2>/dev/null
}

# 2. Where the log went on in another store: a promote continues from the record that it names, and what stands
#    between the two is left behind. Nothing is in effect behind a fence but a promote.
declare -a forks=()
end=0 fenced=
for n in "${!kinds[@]}"; do
    end=$n
    case "${kinds[n]}" in
    fence) fenced=yes ;;
    # Of one that is retired, the checkpoint says it.
    promote) fenced=
        from=$({ body "$n" || true; } | jq .from.number 2>/dev/null) || from=
        case "$from" in '' | *[!0-9]*) ;; *) [ "$from" -ge "$n" ] || forks[n]=$from ;; esac ;;
    *) [ -z "$fenced" ] || kinds[n]=void ;;
    esac
done
# The records that made the state at record $1, the newest first, down to the one after record $2.
way() {
    local n=$1
    while [ "$n" -gt "$2" ]; do
        echo "$n"
        n=${forks[n]:-$((n - 1))}
    done
}

# 3. Where somebody has collected: the newest removal says up to which record only envelopes are left. The checkpoint
#    there, or failing that the next one, is what the log goes on from.
cut=0 base=0 compaction=0 removal=0
: >"$work/snapshots"
: >"$work/expired"
: >"$work/left"
way "$end" 0 >"$work/way"
while read -r n; do
    case "${kinds[n]:-}" in
    compact) [ "$compaction" -gt 0 ] || compaction=$n ;;
    remove) [ "$removal" -gt 0 ] || removal=$n ;;
    esac
    [ "$compaction" -eq 0 ] || [ "$removal" -eq 0 ] || break
done <"$work/way"
if [ "$removal" -gt 0 ]; then
    body "$removal" >"$work/removal" || fail "$(record "$removal") is damaged: it says what stands in for older ones"
    cut=$(head -n 1 "$work/removal" | jq .cut)
fi
if [ "$cut" -gt 0 ]; then
    # Their names count down, so the oldest come first here.
    for name in $(ls -r "$REPO/checkpoints"); do
        case "$name" in 99999999????????????*) n=$((999999999999 - 10#${name:8:12})) ;; *) continue ;; esac
        [ "$n" -ge "$cut" ] && grep -qx "$n" "$work/way" || continue
        zstd -dcq "$REPO/checkpoints/$name" >"$work/checkpoint" 2>/dev/null || continue
        id=$(head -n 1 "$work/checkpoint" | jq -r ".at | select(.number == $n) | .id" 2>/dev/null) || continue
        [ "$id" = "${parents[n + 1]:-$id}" ] && [ -n "$id" ] && base=$n && break
    done
    [ "$base" -gt 0 ] || fail "no checkpoint stands in for the records up to $cut"
    [ "$base" = "$cut" ] || echo "the checkpoint at record $cut is lost: the records up to $base with it" >&2
    jq -r '.snapshot // empty | "\(.at) \(.id)"' "$work/checkpoint" >"$work/snapshots"
    jq -r '.collection.expired[]? | "\(.[0]) \(.[1])"' "$work/checkpoint" >"$work/expired"
    jq -r '.epoch // empty | "\(.from.number) \(.by.number)"' "$work/checkpoint" >"$work/left"
fi

# 4. What the log says besides about snapshots, each with the record that it names, and which states were let go.
newest=$base
while [ -n "${kinds[newest + 1]:-}" ]; do newest=$((newest + 1)); done
[ "$newest" -gt 0 ] || fail "the log is empty, or begins later"
way "$newest" "$base" >"$work/way"
for n in $(sort -n "$work/way"); do
    [ -z "${forks[n]:-}" ] || echo "${forks[n]} $n" >>"$work/left"
    case "${kinds[n]}" in snapshot | rollback | forget | compact) ;; *) continue ;; esac
    body "$n" >"$work/body" || { echo "$(record "$n") is damaged" >&2; continue; }
    case "${kinds[n]}" in
    # A name for an earlier record.
    snapshot) jq -r '"\(.at) \(.id)"' "$work/body" >>"$work/snapshots" ;;
    # Entries put back, and a name for how things were just before.
    rollback) head -n 1 "$work/body" | jq -r '"\(.base.number) \(.before)"' >>"$work/snapshots" ;;
    # Names that are needed no longer. The records that they named are there all the same.
    forget) jq -r '.snapshots[]' "$work/body" >"$work/forgotten"
        awk 'FILENAME == ARGV[1] { gone[$0]; next } !($2 in gone)' "$work/forgotten" "$work/snapshots" >"$work/kept"
        mv "$work/kept" "$work/snapshots" ;;
    compact) head -n 1 "$work/body" | jq -r '.expired[] | "\(.[0]) \(.[1])"' >>"$work/expired" ;;
    esac
done
if [ -n "${LIST:-}" ]; then
    awk 'FILENAME == ARGV[1] { first[NR] = $1; last[NR] = $2; ranges = NR; next }
        FILENAME == ARGV[2] { from[++epochs] = $1; by[epochs] = $2; next }
        { gone = ""; for (i = 1; i <= ranges; i++) if (first[i] <= $1 && $1 <= last[i]) gone = "  let go"
          for (i = 1; i <= epochs; i++) if (from[i] < $1 && $1 < by[i]) gone = gone "  left behind"
          print "record " $1 "  " $3 "  " $4 gone }' "$work/expired" "$work/left" "$work/records"
    awk '{ print "snapshot " $2 "  of record " $1 }' "$work/snapshots"
    exit 0
fi

# 5. Which record is meant, and whether its state is kept.
number=$newest
case "${AT:-}" in
'') ;;
*[!0-9]*) case "$AT" in
    # A moment, and not a snapshot's name: that has no colon. Milliseconds, as records have them; times of one
    # length sort as text.
    ????-??-??T*:*Z)
        case "$AT" in *.???Z) until=$AT ;; *) until=${AT%Z}.999Z ;; esac
        number=0
        for n in "${!times[@]}"; do
            [ "$n" -le "$newest" ] && ! [ "${times[n]}" \> "$until" ] || break
            number=$n
        done ;;
    # By the whole name, or by what stands after the time in it.
    *)  awk -v name="$AT" '$2 == name || substr($2, 22) == name { print $1, $2 }' "$work/snapshots" >"$work/found"
        case "$(wc -l <"$work/found")" in
        *1) read -r number name <"$work/found" ;;
        *) echo "snapshots called $AT:" >&2; cut -d ' ' -f 2 "$work/found" >&2; exit 1 ;;
        esac ;;
    esac ;;
*) [ "$AT" -ge "$newest" ] || number=$((10#$AT)) ;;
esac
[ "$number" -gt 0 ] || fail "the log is empty, or begins later"
last=$(ls "$REPO/log" | LC_ALL=C awk 'length($0) == 20' | tail -n 1)
[ "$number" -lt "$newest" ] || [ "$((10#$last))" -le "$newest" ] ||
    echo "$(record "$((newest + 1))") is missing or damaged; going on with what is before it" >&2
read -r before after <<<"$(awk -v n="$number" '{ first[NR] = $1; last[NR] = $2 }
    END { before = after = n
        do { again = 0
            for (i = 1; i <= NR; i++) {
                if (first[i] <= before && before <= last[i]) { before = first[i] - 1; again = 1 }
                if (first[i] <= after && after <= last[i]) { after = last[i] + 1; again = 1 }
            }
        } while (again)
        print before, after }' "$work/expired")"
[ "$after" = "$number" ] || fail "the state at record $number was let go; the nearest that are kept are those at" \
    "$([ "$before" -eq 0 ] || echo "$before and ")$after"

# 6. What made the state, line by line: a tree where one stands in for older records, then the bodies of records in
#    order, each line with its record's number and the place of its content.
: >"$work/lines"
# The entries of tree $1. Its table, the lines with a count, says in which object each page lies.
tree() {
    local object offset stored
    zstd -dcq "$REPO/trees/$1" >"$work/table" 2>/dev/null || fail "trees/$1 is missing or damaged"
    jq -r --arg own "$1" 'select(has("entries")) | "\(.in // $own) \(.offset) \(.stored)"' "$work/table" >"$work/pages"
    : >"$work/entries"
    while read -r object offset stored; do
        part "$REPO/trees/$object" "$offset" "$stored" 2>/dev/null | zstd -dcq >>"$work/entries" 2>/dev/null ||
            fail "trees/$object is missing or damaged"
    done <"$work/pages"
    # Content that was purged lies nowhere.
    jq -c 'if .chunks then .chunks |= map(.in //= "purged") else . end' "$work/entries" >>"$work/lines"
}
# Where content lies since record $1, a compaction: by object and first byte before.
moves() {
    body "$1" >"$work/body" || fail "$(record "$1") is damaged: it says where content lies"
    tail -n +2 "$work/body" | jq -cs '{type: "moves", moved: (map(. as $line | .frames[]
        | {key: "\($line.from) \(.[0])",
           value: (if $line.to then {in: "packs/\($line.to)", offset: .[1]} else {in: "purged"} end)})
        | from_entries)}' >>"$work/lines"
}
if [ "$number" -lt "$cut" ]; then
    id=$(tail -n +2 "$work/removal" | jq -r "select(.from <= $number and $number <= .to) | .tree.id")
    [ -n "$id" ] || fail "nothing stands in for record $number"
    tree "$id"
    base=$number
elif [ "$number" -lt "$base" ]; then
    fail "the state at record $number is lost with the checkpoint at record $cut"
elif [ "$base" -gt 0 ]; then
    tree "$(head -n 1 "$work/checkpoint" | jq -r .tree.id)"
fi
left=$(awk -v n="$number" '$1 < n && n < $2 { print $2 }' "$work/left")
[ -z "$left" ] || [ "$number" -lt "$cut" ] || echo "record $number was left behind by the promote in record $left" >&2
way "$number" "$base" >"$work/way"
n=$(tail -n 1 "$work/way")
[ "${forks[n]:-$((${n:-$number + 1} - 1))}" = "$base" ] ||
    fail "the state at record $number is lost with the checkpoint at record $cut"
for n in $(sort -n "$work/way"); do
    name=$(record "$n")
    case "${kinds[n]}" in
    push | rollback) ;;
    compact) moves "$n"; continue ;;
    snapshot | forget | note | backup | hold | remove | fence | void) continue ;;
    promote) [ -n "${forks[n]:-}" ] || fail "$name is damaged; what is before it comes back with AT=$((n - 1))"
        continue ;;
    *) [ "${criticals[n]}" != true ] || fail "$name is of kind ${kinds[n]}, which this script does not know"
        continue ;;
    esac
    body "$n" >"$work/body" || fail "$name is damaged; what is before it comes back with AT=$((n - 1))"
    tail -n +2 "$work/body" | jq -c --arg in "$name" --argjson start "$(($(wc -c <"$REPO/$name") - contents[n]))" \
        '. + {in: $in, start: $start}' >>"$work/lines"
done
# Moves reach earlier states: the newest compaction says where everything is that they name.
[ "$compaction" -eq 0 ] || grep -qx "$compaction" "$work/way" || moves "$compaction"
mkdir -p "$OUT"

# 7. The fold: path -> entry, with every chunk in an object and at an offset of its own.
jq -n 'reduce inputs as $line ({};
    $line.path as $path
    | if $line.type == "moves" then
        map_values(if .chunks then .chunks |= map(. + ($line.moved["\(.in) \(.offset)"] // {})) else . end)
      elif $line.type == "delete" then del(.[$path])
      elif $line.type == "file" then
        (if $line.keep then .[$path].chunks[:$line.keep] else [] end) as $kept
        | .[$path] = ($line | del(.path, .in, .start, .keep))
        | .[$path].chunks = $kept + [($line.chunks // [])[]
            | if .in then . else . + {in: $line.in, offset: (.offset + $line.start)} end]
      else .[$path] = ($line | del(.path, .in, .start)) end)
    | map_values(if any(.chunks[]?; .in == "purged") then .type = "purged" else . end)' "$work/lines" >"$work/tree"

# 8. Folders, then files chunk by chunk, then links: nothing is ever written through a link.
#    Fields end with a null byte, since names may hold anything else.
safe() {
    case "/$1/" in
    *//* | */../* | */./*) fail "a path leads elsewhere: $1" ;;
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

fields purged '[.key]' >"$work/purged"
while IFS= read -r -d '' path; do
    echo "purged: $path" >&2
done <"$work/purged"

echo "record $number: $files files in $OUT, $bad damaged"
[ "$bad" -eq 0 ]
