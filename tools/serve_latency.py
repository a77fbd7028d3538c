#!/usr/bin/env python3
"""Time `POST /embed` of a running `lat-wgpu serve`, at several numbers of crops and of requests at once.

    lat-wgpu serve --gallery gallery.safetensors --port 8080
    python3 tools/serve_latency.py http://127.0.0.1:8080 crop.png [--seconds 10]

Each request sends copies of one image, and gets f32 values. Prints a table in Markdown of the median and the 99th
percentile of the time of a request, and of crops per second. Needs Python alone.
"""

import argparse
import http.client
import threading
import time
from urllib.parse import urlsplit

CROPS = (1, 8, 64)
CLIENTS = (1, 16)


def body(image, count):
    part = b'--edge\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n' + image + b"\r\n"
    return part * count + b"--edge--\r\n"


def ask(place, content, until, times):
    """Send requests one after another until a time; add the seconds that each took."""
    connection = http.client.HTTPConnection(place, timeout=600)
    headers = {"Content-Type": "multipart/form-data; boundary=edge"}
    while time.perf_counter() < until:
        start = time.perf_counter()
        connection.request("POST", "/embed?format=f32", content, headers)
        answer = connection.getresponse()
        data = answer.read()
        if answer.status != 200:
            raise SystemExit(f"error: {answer.status}: {data.decode()}")
        times.append(time.perf_counter() - start)


def measure(place, content, clients, seconds):
    ask(place, content, time.perf_counter(), [])
    times, start = [], time.perf_counter()
    arguments = place, content, start + seconds, times
    threads = [threading.Thread(target=ask, args=arguments) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(times), time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("server")
    parser.add_argument("image")
    parser.add_argument("--seconds", type=float, default=10)
    arguments = parser.parse_args()
    with open(arguments.image, "rb") as file:
        image = file.read()
    print("| crops in a request | requests at once | p50 ms | p99 ms | crops/s |\n|---|---|---|---|---|")
    for crops in CROPS:
        for clients in CLIENTS:
            content = body(image, crops)
            times, took = measure(urlsplit(arguments.server).netloc, content, clients, arguments.seconds)
            p50, p99 = (1000 * times[min(int(len(times) * share), len(times) - 1)] for share in (0.5, 0.99))
            print(f"| {crops} | {clients} | {p50:.1f} | {p99:.1f} | {len(times) * crops / took:.1f} |", flush=True)


if __name__ == "__main__":
    main()
