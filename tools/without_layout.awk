# Removes array strides and member offsets of types in workgroup memory from SPIR-V in the form of spirv-dis --raw-id.
# Reads the text twice: awk -f without_layout.awk FILE FILE. See check_shaders.sh.

function bare(type, words, i) {
    if (type in seen) return
    seen[type] = 1
    split(parts[type], words, " ")
    for (i in words) bare(words[i])
}

NR == FNR && $3 == "OpTypePointer" && $4 == "Workgroup" { shared[$5] = 1 }
NR == FNR && $3 == "OpTypeArray" { parts[$1] = $4 }
NR == FNR && $3 == "OpTypeStruct" { for (i = 4; i <= NF; i++) parts[$1] = parts[$1] " " $i }
NR == FNR { next }

FNR == 1 { for (type in shared) bare(type) }
$1 == "OpDecorate" && $3 == "ArrayStride" && ($2 in seen) { next }
$1 == "OpMemberDecorate" && $4 == "Offset" && ($2 in seen) { next }
{ print }
