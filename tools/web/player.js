// Replays a network of `lat-wgpu export --to web` on any WebGPU device: pixels in, embeddings out.
//
//   const player = await Player.open(device, read);            // read(name) returns a file as an ArrayBuffer
//   const [vector] = await player.embed([imageData]);          // { width, height, data }: RGBA bytes, as of a canvas
//
// Everything specific to the network is in plan.json: buffers, pipelines, and dispatches with their grids, uniform
// blocks and bindings.

/** Supported version of plan.json. */
const FORMAT = 1;

/** Alignment of uniform blocks: WebGPU's default minUniformBufferOffsetAlignment, in bytes. */
const UNIFORM_ALIGN = 256;

export class Player {
    /** Dimensions of an embedding. */
    get dim() {
        return this.plan.embedding.dim;
    }

    /**
     * Loads a folder onto a device. `progress` gets the number of bytes of weights read, and their total. Throws an Error
     * that names the wrong file or dispatch.
     */
    static async open(device, read, progress = () => {}) {
        const plan = JSON.parse(new TextDecoder().decode(await read("plan.json")));
        if (plan.format !== FORMAT) {
            throw new Error(`plan.json has format ${plan.format}, this player supports ${FORMAT}: use the player of its folder`);
        }
        if (plan.preprocess.interpolation !== "bicubic") {
            throw new Error(`plan.json needs ${plan.preprocess.interpolation} interpolation, this player supports bicubic`);
        }
        const player = new Player();
        Object.assign(player, { device, plan });
        device.pushErrorScope("out-of-memory");
        device.pushErrorScope("validation");
        // The scopes are always closed. An error in them is the cause of one here.
        let failure = null;
        try {
            await player.#fill(read, progress);
            await player.#prepare(read);
        } catch (error) {
            failure = error;
        }
        for (const error of [await device.popErrorScope(), await device.popErrorScope()]) {
            failure ??= error && new Error(`the device refuses the plan: ${error.message}`);
        }
        if (failure) {
            player.destroy();
            throw failure;
        }
        return player;
    }

    /** Creates all buffers and uploads the weights. */
    async #fill(read, progress) {
        const { device, plan } = this;
        const { STORAGE, COPY_DST, COPY_SRC, MAP_READ, UNIFORM } = GPUBufferUsage;
        this.buffers = plan.buffers.map(({ bytes }) => device.createBuffer({ size: bytes, usage: STORAGE | COPY_DST | COPY_SRC }));
        const ofKind = (kind) => this.buffers[plan.buffers.findIndex((buffer) => buffer.kind === kind)];
        this.input = ofKind("input");
        this.output = ofKind("output");
        this.staging = device.createBuffer({ size: this.output.size, usage: MAP_READ | COPY_DST });

        const all = plan.buffers.reduce((sum, { file, bytes }) => sum + (file ? bytes : 0), 0);
        let there = 0;
        for (const [index, { file, bytes }] of plan.buffers.entries()) {
            if (!file) continue;
            const weights = await read(file);
            if (weights.byteLength !== bytes) throw new Error(`${file} has ${weights.byteLength} bytes instead of ${bytes}`);
            device.queue.writeBuffer(this.buffers[index], 0, weights);
            there += bytes;
            progress(there, all);
        }

        const blocks = new Uint8Array(plan.dispatches.length * UNIFORM_ALIGN);
        for (const [index, { params }] of plan.dispatches.entries()) {
            const view = new DataView(blocks.buffer, index * UNIFORM_ALIGN);
            params.forEach((word, place) => view.setUint32(4 * place, word, true));
        }
        this.uniforms = device.createBuffer({ size: blocks.byteLength, usage: UNIFORM | COPY_DST });
        device.queue.writeBuffer(this.uniforms, 0, blocks);
    }

    /** Compiles the shaders, and binds the buffers of every dispatch. */
    async #prepare(read) {
        const { device, plan } = this;
        const modules = new Map();
        for (const name of new Set(plan.pipelines.map(({ shader }) => shader))) {
            const code = new TextDecoder().decode(await read(`shaders/${name}`));
            modules.set(name, device.createShaderModule({ label: name, code }));
        }
        const pipelines = await Promise.all(plan.pipelines.map(async ({ shader, entry, overrides, writes }) => {
            const types = ["uniform", ...writes.map((written) => (written ? "storage" : "read-only-storage"))];
            const entries = types.map((type, binding) => ({ binding, visibility: GPUShaderStage.COMPUTE, buffer: { type } }));
            const layout = device.createBindGroupLayout({ entries });
            const compute = { module: modules.get(shader), entryPoint: entry, constants: overrides };
            const whole = device.createPipelineLayout({ bindGroupLayouts: [layout] });
            try {
                return { layout, pipeline: await device.createComputePipelineAsync({ layout: whole, compute }) };
            } catch (error) {
                throw new Error(`shaders/${shader}, ${entry}: ${error.message}`);
            }
        }));
        this.steps = plan.dispatches.map(({ label, pipeline: index, grid, params, bindings }, place) => {
            const { layout, pipeline } = pipelines[index];
            const uniform = { buffer: this.uniforms, offset: place * UNIFORM_ALIGN, size: 4 * params.length };
            const storage = bindings.map(([buffer, offset, size]) => ({ buffer: this.buffers[buffer], offset, size }));
            const entries = [uniform, ...storage].map((resource, binding) => ({ binding, resource }));
            return { pipeline, grid, group: device.createBindGroup({ label, layout, entries }) };
        });
    }

    /**
     * The embeddings of images { width, height, data } of any size, in order: Float32Array, of unit length. Ignores alpha.
     * Calls must not overlap.
     */
    async embed(images) {
        const { size: [height, width], flip } = this.plan.preprocess;
        const views = [];
        for (const image of images) {
            const resized = resizeBicubic(rgb(image), height, width);
            views.push(resized.pixels);
            if (flip) views.push(mirrored(resized));
        }
        const vectors = [];
        for (let start = 0; start < views.length; start += this.plan.batch) {
            vectors.push(...await this.#run(views.slice(start, start + this.plan.batch)));
        }
        if (!flip) return vectors;
        return images.map((_, index) => meanOfViews(vectors[2 * index], vectors[2 * index + 1], this.plan.embedding.parts));
    }

    /** Replays the plan once, for at most a batch of images of the input size. */
    async #run(views) {
        const { device, dim } = this;
        const bytes = new Uint8Array(this.input.size);
        views.forEach((view, index) => bytes.set(view, index * view.length));
        device.pushErrorScope("validation");
        device.queue.writeBuffer(this.input, 0, bytes);
        const encoder = device.createCommandEncoder();
        const pass = encoder.beginComputePass();
        for (const { pipeline, group, grid } of this.steps) {
            pass.setPipeline(pipeline);
            pass.setBindGroup(0, group);
            pass.dispatchWorkgroups(...grid);
        }
        pass.end();
        encoder.copyBufferToBuffer(this.output, 0, this.staging, 0, this.output.size);
        device.queue.submit([encoder.finish()]);
        const refused = await device.popErrorScope();
        if (refused) throw new Error(`the device refuses the work: ${refused.message}`);
        await this.staging.mapAsync(GPUMapMode.READ);
        const rows = new Float32Array(this.staging.getMappedRange().slice(0));
        this.staging.unmap();
        return views.map((_, index) => rows.slice(index * dim, (index + 1) * dim));
    }

    /** Frees the device's memory. */
    destroy() {
        for (const buffer of [...(this.buffers ?? []), this.staging, this.uniforms]) buffer?.destroy();
    }
}

/** The squared Euclidean distance of two embeddings, as in `lat-wgpu search`. */
export function squaredDistance(one, other) {
    return one.reduce((sum, value, index) => sum + (value - other[index]) ** 2, 0);
}

/** RGBA bytes to RGB: { width, height, pixels }. */
export function rgb({ width, height, data }) {
    const pixels = new Uint8Array(3 * width * height);
    for (let from = 0, to = 0; to < pixels.length; from += 4, to += 3) {
        pixels[to] = data[from];
        pixels[to + 1] = data[from + 1];
        pixels[to + 2] = data[from + 2];
    }
    return { width, height, pixels };
}

/** The bytes of an RGB image mirrored left to right. */
function mirrored({ width, height, pixels }) {
    const turned = new Uint8Array(pixels.length);
    for (let y = 0; y < height; y += 1) {
        for (let x = 0; x < width; x += 1) {
            const from = 3 * (y * width + x);
            turned.set(pixels.subarray(from, from + 3), 3 * (y * width + width - 1 - x));
        }
    }
    return turned;
}

/** The mean of two embeddings, with each part scaled to length 1/√parts. */
function meanOfViews(one, other, parts) {
    const mean = one.map((value, index) => Math.fround(value + other[index]) / 2);
    const width = mean.length / parts;
    for (let part = 0; part < parts; part += 1) {
        const values = mean.subarray(part * width, (part + 1) * width);
        const square = values.reduce((sum, value) => sum + value ** 2, 0);
        // Avoids a division by 0 for opposite vectors.
        const factor = 1 / (Math.max(Math.sqrt(square), 1e-12) * Math.sqrt(parts));
        values.forEach((value, index) => {
            values[index] = value * factor;
        });
    }
    return mean;
}

// Pillow's `Image.resize(size, BICUBIC)`, byte for byte, as in src/images/preprocess.rs: a cubic filter that widens
// when shrinking, weights in 22-bit fixed point, one pass along the rows and one along the columns, each rounded to 8
// bits, with Pillow's order of operations.

/** Fraction bits of a weight. */
const FRACTION_BITS = 22;
/** Half a unit, so that the final shift rounds. */
const HALF = 1 << (FRACTION_BITS - 1);
/** Support of the cubic on either side, in pixels of the coarser grid. */
const REACH = 2;

/** Resizes an RGB image without keeping the aspect ratio. */
export function resizeBicubic(image, height, width) {
    const rowsLost = image.height - height;
    const columnsLost = image.width - width;
    // The order of the passes affects rounding; this is the rule of Pillow 13.
    const rowsFirst = rowsLost > 0 && rowsLost > 2 * columnsLost;
    return rowsFirst ? resizeColumns(resizeRows(image, height), width) : resizeRows(resizeColumns(image, width), height);
}

function resizeColumns({ width: from, height, pixels }, to) {
    if (from === to) return { width: to, height, pixels };
    const resized = new Uint8ClampedArray(3 * height * to);
    for (const [x, { start, weights }] of windows(from, to).entries()) {
        for (let y = 0; y < height; y += 1) {
            for (let channel = 0; channel < 3; channel += 1) {
                const first = 3 * (y * from + start) + channel;
                resized[3 * (y * to + x) + channel] = weighted(pixels, first, 3, weights);
            }
        }
    }
    return { width: to, height, pixels: resized };
}

function resizeRows({ width, height: from, pixels }, to) {
    if (from === to) return { width, height: to, pixels };
    const row = 3 * width;
    const resized = new Uint8ClampedArray(row * to);
    for (const [y, { start, weights }] of windows(from, to).entries()) {
        for (let place = 0; place < row; place += 1) {
            resized[row * y + place] = weighted(pixels, row * start + place, row, weights);
        }
    }
    return { width, height: to, pixels: resized };
}

/** One value of an output pixel, before clamping to 0..=255, from input bytes starting at `first`, `step` apart. */
function weighted(pixels, first, step, weights) {
    let sum = HALF;
    for (let index = 0; index < weights.length; index += 1) sum += pixels[first + step * index] * weights[index];
    return sum >> FRACTION_BITS;
}

/** For each output pixel, the first input pixel, and the weights of that pixel and its successors. */
function windows(from, to) {
    const scale = from / to;
    const widening = Math.max(scale, 1);
    const reach = REACH * widening;
    const shrink = 1 / widening;
    return Array.from({ length: to }, (_, index) => {
        const center = (index + 0.5) * scale;
        const start = Math.trunc(Math.max(center - reach + 0.5, 0));
        const end = Math.min(Math.trunc(center + reach + 0.5), from);
        const exact = Array.from({ length: end - start }, (_, place) => cubic((start + place - center + 0.5) * shrink));
        const total = exact.reduce((sum, weight) => sum + weight, 0);
        const weights = exact.map((weight) => {
            const share = total !== 0 ? weight / total : weight;
            return Math.trunc(share * (1 << FRACTION_BITS) + (share < 0 ? -0.5 : 0.5));
        });
        return { start, weights };
    });
}

/** Keys' cubic with a = −0.5. */
function cubic(signed) {
    const A = -0.5;
    const x = Math.abs(signed);
    if (x < 1) return ((A + 2) * x - (A + 3)) * x * x + 1;
    return x < REACH ? (((x - 5) * x + 8) * x - 4) * A : 0;
}
