// Starts `lat-wgpu serve`.

import { spawn } from "node:child_process";
import { createInterface } from "node:readline";

/** Starts the server in a folder, on a free port; returns its process and its URL. */
export async function startServer(program, folder, words) {
    const server = spawn(program, ["serve", ...words, "--port", "0"], {
        cwd: folder,
        stdio: ["ignore", "pipe", "inherit"],
    });
    for await (const line of createInterface({ input: server.stdout })) {
        return { server, url: line.replace("listening on ", "") };
    }
    throw new Error("the server ended before it listened");
}
