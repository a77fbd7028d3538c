// Helper: positions of patches and weights in the images of a patch embedding. Needs the `params` of patch_embed.wgsl.

// Index in `image` of the top left pixel of patch m, in channel 0.
fn corner(m: u32) -> u32 {
    let patches_per_image = params.rows * params.columns;
    let within = m % patches_per_image;
    let y = (within / params.columns) * params.stride;
    let x = (within % params.columns) * params.stride;
    return (m / patches_per_image) * 3u * params.height * params.width + y * params.width + x;
}

// Index of the pixel that weight k multiplies, relative to its patch's corner.
fn pixel_of(k: u32) -> u32 {
    let area = params.side * params.side;
    let y = (k / area) * params.height + (k % area) / params.side;
    return y * params.width + (k % area) % params.side;
}
