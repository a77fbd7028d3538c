// Validates every assembled shader with Tint, Chrome's WGSL compiler, and builds every pipeline, on a device without a
// GPU. Tint checks rules that naga doesn't: barriers and subgroup operations must be in uniform control flow.
//
//   node tools/tint_check.mjs DIR        DIR: output of tests/shader_contract.rs, *.wgsl and list.txt
//
// Exit code 0 if all pass, 1 if one is refused or an invalid shader is accepted.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { create, globals } from "webgpu";

Object.assign(globalThis, globals);

// A barrier that only some invocations of a workgroup reach.
const BARRIER_FOR_SOME = `
var<workgroup> shared_value: u32;
@group(0) @binding(0) var<storage, read_write> values: array<u32>;
@compute @workgroup_size(64)
fn wrong(@builtin(local_invocation_index) lane: u32) {
    if (lane < 32u) {
        shared_value = lane;
        workgroupBarrier();
    }
    values[lane] = shared_value;
}`;

// The same with a barrier that all reach.
const BARRIER_FOR_ALL = BARRIER_FOR_SOME.replace("workgroupBarrier();\n    }", "}\n    workgroupBarrier();");

/** Tint's messages about a source, or the device's about its pipelines; empty if there are none. */
async function complaints(device, code, entryPoint, settings) {
    const found = [];
    device.pushErrorScope("validation");
    const module = device.createShaderModule({ code });
    const { messages } = await module.getCompilationInfo();
    for (const { type, lineNum, linePos, message } of messages) {
        if (type === "error") found.push(`${lineNum}:${linePos} ${message}`);
    }
    const error = await device.popErrorScope();
    if (error && found.length === 0) found.push(error.message);
    if (found.length > 0) return found;
    for (const constants of settings) {
        device.pushErrorScope("validation");
        device.createComputePipeline({ layout: "auto", compute: { module, entryPoint, constants } });
        const error = await device.popErrorScope();
        if (error) found.push(`${JSON.stringify(constants)}: ${error.message}`);
    }
    return found;
}

/** Variants of list.txt: name → entry point, needed features, override values of each pipeline. */
function variants(folder) {
    const found = new Map();
    for (const line of readFileSync(join(folder, "list.txt"), "utf8").trim().split("\n")) {
        const [name, entry, features, ...values] = line.trim().split(" ");
        if (!found.has(name)) found.set(name, { entry, features: features.split(","), settings: [] });
        found.get(name).settings.push(Object.fromEntries(values.map((value) => {
            const [key, number] = value.split("=");
            return [key, Number(number)];
        })));
    }
    return found;
}

const folder = process.argv[2];
if (!folder) {
    console.error("usage: node tint_check.mjs DIR");
    process.exit(2);
}
const gpu = create(["backend=null"]);
const adapter = await gpu.requestAdapter();
const has = {
    subgroups: adapter.features.has("subgroups"),
    f16: adapter.features.has("shader-f16"),
    // Feature of variants that only naga reads, such as matrix units; see tests/shader_contract.rs.
    naga: false,
};
// WebGPU's default limits: a variant must not need more.
const device = await adapter.requestDevice({
    requiredFeatures: [...(has.subgroups ? ["subgroups"] : []), ...(has.f16 ? ["shader-f16"] : [])],
});

if ((await complaints(device, BARRIER_FOR_ALL, "wrong", [{}])).length > 0) {
    console.error("self-test: Tint refuses a valid shader");
    process.exit(1);
}
const [caught] = await complaints(device, BARRIER_FOR_SOME, "wrong", [{}]);
if (!caught?.includes("uniform control flow")) {
    console.error(`self-test: Tint doesn't catch a barrier in non-uniform control flow: ${caught}`);
    process.exit(1);
}

let pipelines = 0;
let skipped = 0;
let refused = 0;
const all = variants(folder);
for (const [name, { entry, features, settings }] of all) {
    if (features.some((feature) => has[feature] === false)) {
        skipped += 1;
        continue;
    }
    // Tint needs the directive; naga, which reads the sources at run time, doesn't support it.
    const directive = features.includes("subgroups") ? "enable subgroups; " : "";
    const source = directive + readFileSync(join(folder, `${name}.wgsl`), "utf8");
    const found = await complaints(device, source, entry, settings);
    for (const message of found) console.error(`${name}.wgsl: ${message}`);
    refused += found.length > 0 ? 1 : 0;
    pipelines += settings.length;
}
const left = skipped > 0 ? `, ${skipped} left out: not for Tint, or this adapter has no subgroups or f16` : "";
console.log(`Tint: ${all.size - skipped - refused} of ${all.size} variants accepted, ${pipelines} pipelines${left}`);
device.destroy();
process.exit(refused > 0 || pipelines === 0 ? 1 : 0);
