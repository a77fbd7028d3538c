# Reads JSON in lat-wgpu's layout, one value per line, and prints "PATH<tab>VALUE" for each, such as
# "rows.3.seconds<tab>0.5". For shells without jq. Texts lose their quotes and keep their escapes.
{
    line = $0
    sub(/^[ \t]+/, "", line)
    sub(/[\r]$/, "", line)
    sub(/,$/, "", line)
    if (line ~ /^[]}]/) { depth--; next }
    if (match(line, /^"([^"\\]|\\.)*": /)) {
        key = substr(line, 2, RLENGTH - 4)
        line = substr(line, RLENGTH + 1)
    } else if (depth > 0) {
        key = place[depth]++
    } else {
        key = ""
    }
    path = depth > 0 && above[depth] != "" ? above[depth] "." key : key
    if (line == "{" || line == "[") {
        depth++
        above[depth] = path
        place[depth] = 0
        next
    }
    gsub(/^"|"$/, "", line)
    print path "\t" line
}
