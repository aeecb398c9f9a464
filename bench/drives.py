#!/usr/bin/env python3
"""How much faster two drives are than one: a mixture streams from two loop devices, each with a limit.

    drives.py HYPURA FOLDER [--dense] [--first MB/s] [--tokens N] [--rounds N]

Needs root, Linux with loop devices and the blkio controller of control groups (version 1), and 3 GB in FOLDER. Makes two images
there with a file system each, puts a model on one and its copy on the other, and limits the bytes per second that a process may
read from each device. Removes everything afterwards. The limits are needed because both loop devices share one physical drive.
"""
import argparse
import json
import os
import subprocess
import sys

BLKIO = "/sys/fs/cgroup/blkio"


def run(*command):
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True).stdout.strip()


class Drive:
    def __init__(self, folder, name):
        self.image, self.point = os.path.join(folder, name + ".img"), os.path.join(folder, name)
        run("truncate", "-s", "1200M", self.image)
        run("mkfs.ext4", "-q", "-F", self.image)
        self.device = run("losetup", "--direct-io=on", "-f", "--show", self.image)
        os.makedirs(self.point, exist_ok=True)
        run("mount", self.device, self.point)
        number = os.stat(self.device).st_rdev
        self.number = f"{os.major(number)}:{os.minor(number)}"

    def close(self):
        run("umount", self.point)
        run("losetup", "-d", self.device)
        os.rmdir(self.point)
        os.remove(self.image)


def measure(options, group, drives, speeds, mirrors):
    """Runs the model once and returns the bytes per second while it wrote its answer, and each drive's share of them."""
    for drive, speed in zip(drives, speeds):
        with open(os.path.join(group, "blkio.throttle.read_bps_device"), "w") as file:
            file.write(f"{drive.number} {int(speed * 1e6)}")
    stats = os.path.join(options.folder, "stats.json")
    command = [options.hypura, "run", os.path.join(drives[0].point, "model.gguf"), "--memory", "300M", "--context", "512",
               "--gpu", "none", "--no-state", "--raw", "--ignore-eos", "--prompt", "a b c", "--max-tokens", str(options.tokens),
               "--prefetch", "off", "--fill", "off", "--stats", stats]
    for mirror in mirrors:
        command += ["--mirror", mirror.point]
    text = subprocess.run(command, check=True, stdout=subprocess.PIPE,
                          preexec_fn=lambda: open(os.path.join(group, "cgroup.procs"), "w").write(str(os.getpid()))).stdout
    with open(stats) as file:
        found = json.load(file)
    shares = [drive["bytes_read"] / max(found["bytes_read"], 1) for drive in found["drives"]]
    return found["decode_bytes_read"] / found["decode_seconds"] / 1e6, shares, text


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("hypura")
    parser.add_argument("folder")
    parser.add_argument("--dense", action="store_true", help="measure a dense model, which streams through the ring")
    parser.add_argument("--first", type=float, default=100, help="limit of the first drive, in MB/s")
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    options.hypura = os.path.abspath(options.hypura)
    group = os.path.join(BLKIO, f"hypura-drives-{os.getpid()}")
    os.mkdir(group)
    drives = []
    try:
        drives = [Drive(options.folder, "drive-" + name) for name in "ab"]
        model = os.path.join(drives[0].point, "model.gguf")
        kind = ["--preset", "tiny-mixtral", "--feed-forward", 4096, "--experts", 8, "--experts-used", 2]
        if options.dense:
            kind = ["--preset", "tiny-dense", "--feed-forward", 24576]
        run(options.hypura, "synth", *kind, "--layers", 8, "--embedding", 2048, "--heads", 16, "--kv-heads", 4,
            "--head-size", 128, "--vocabulary", 4000, "--no-check", model)
        run("cp", model, os.path.join(drives[1].point, "model.gguf"))
        run("sync")
        print(f"{'MB/s allowed':>16} {'one drive':>10} {'both':>8} {'times':>6}  shares")
        texts = set()
        for second in (options.first, options.first / 2):
            for _ in range(options.rounds):
                speeds = (options.first, second)
                one, _, text = measure(options, group, drives, speeds, [])
                both, shares, other = measure(options, group, drives, speeds, drives[1:])
                texts |= {text, other}
                print(f"{speeds[0]:7.0f} + {second:6.0f} {one:10.1f} {both:8.1f} {both / one:6.2f}  " +
                      " ".join(f"{share:.2f}" for share in shares), flush=True)
        print("the same text each time" if len(texts) == 1 else "THE TEXTS DIFFER")
        sys.exit(len(texts) != 1)
    finally:
        for drive in drives:
            drive.close()
        os.rmdir(group)


if __name__ == "__main__":
    main()
