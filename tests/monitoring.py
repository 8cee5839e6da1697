#!/usr/bin/env python3
"""What monitoring reads: every key of memcached's stats is there, of the same kind, and memcached-tool shows a table.

usage: tests/monitoring.py MEMCACHED FLASHARE     the two binaries; both are started with flash, given the same work and compared
prometheus memcached_exporter, telegraf, collectd and memcached-tool read by name: a key that is missing is a gap in a graph.
"""

import pathlib
import re
import subprocess
import sys
import tempfile

from loopback import connect, free_port

# What the prometheus exporter turns into metrics, by command; telegraf and collectd read a part of the first.
EXPORTER = {
    "stats": """uptime time version rusage_user rusage_system bytes_read bytes_written curr_connections max_connections total_connections
        rejected_connections conn_yields listen_disabled_num bytes limit_maxbytes curr_items total_items evictions reclaimed
        store_too_large store_no_memory lru_crawler_starts crawler_items_checked crawler_reclaimed direct_reclaims moves_to_cold moves_to_warm
        moves_within_lru accepting_conns cmd_get cmd_set cmd_touch cmd_flush get_hits get_misses delete_hits delete_misses incr_hits incr_misses
        decr_hits decr_misses cas_hits cas_misses cas_badval touch_hits touch_misses threads connection_structures unexpected_napi_ids
        round_robin_fallback extstore_compact_lost extstore_compact_rescues extstore_compact_skipped extstore_page_allocs
        extstore_page_evictions extstore_page_reclaims extstore_pages_free extstore_pages_used extstore_objects_evicted extstore_objects_read
        extstore_objects_written extstore_objects_used extstore_bytes_evicted extstore_bytes_written extstore_bytes_read extstore_bytes_used
        extstore_bytes_fragmented extstore_limit_maxbytes extstore_io_queue""",
    "stats settings": "maxconns lru_crawler lru_crawler_sleep lru_crawler_tocrawl lru_maintainer_thread hot_lru_pct warm_lru_pct hot_max_factor warm_max_factor",
    "stats items": """number age crawler_reclaimed evicted evicted_nonzero evicted_time evicted_unfetched expired_unfetched outofmemory reclaimed
        tailrepairs moves_to_cold moves_to_warm moves_within_lru number_hot number_warm number_cold age_hot age_warm hits_to_hot hits_to_warm
        hits_to_cold hits_to_temp""",
    "stats slabs": """chunk_size chunks_per_page total_pages total_chunks used_chunks free_chunks free_chunks_end cmd_set get_hits delete_hits
        incr_hits decr_hits cas_hits cas_badval touch_hits active_slabs total_malloced""",
}
WORK = b"set a 0 0 1\r\n1\r\n" + b"get a b\r\nincr a 1\r\ndecr a 1\r\ntouch a 100\r\n" + b"set big 0 0 2000\r\n" + b"x" * 2000 + b"\r\ndelete big\r\n"


def ask(port, command):
    """STAT lines as a dictionary; names of slab classes are left out, since they differ."""
    with connect(port) as connection:
        connection.sendall(command.encode() + b"\r\n")
        text = b""
        while not text.endswith(b"END\r\n"):
            text += connection.recv(65536)
    rows = dict(line.split(" ", 2)[1:] for line in text.decode().splitlines() if line.startswith("STAT ") and line.count(" ") >= 2)
    return {re.sub(r"^(items:)?\d+:", "", key): value for key, value in rows.items()}


def kind(value):
    return "number" if re.fullmatch(r"-?\d+(\.\d+)?", value) else "text"


def main():
    memcached, flashare = sys.argv[1], sys.argv[2]
    tool = next(iter(sorted(pathlib.Path(memcached).parent.glob("memcached-1.*/scripts/memcached-tool"))))
    servers, passed, failed = [], 0, []
    with tempfile.TemporaryDirectory() as scratch:
        try:
            ports = []
            for binary in (memcached, flashare):
                ports.append(free_port())
                command = [binary, "-u", "root", "-l", "127.0.0.1", "-p", str(ports[-1]), "-o", f"ext_path={scratch}/{len(ports)}:64m"]
                servers.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            for port in ports:
                with connect(port) as connection:
                    connection.sendall(WORK + b"mn\r\n")
                    answer = b""
                    while not answer.endswith(b"MN\r\n"):
                        answer += connection.recv(65536)
            for command, wanted in EXPORTER.items():
                theirs, ours = ask(ports[0], command), ask(ports[1], command)
                for key in sorted(set(theirs) | set(wanted.split())):
                    if key not in ours:
                        failed.append(f"{command}: {key} is missing")
                    elif key in theirs and kind(ours[key]) != kind(theirs[key]) and key != "hash_algorithm":
                        failed.append(f"{command}: {key} is {ours[key]}, memcached says {theirs[key]}")
                    else:
                        passed += 1
            for key, value in {"cmd_get": "2", "get_hits": "1", "cmd_set": "2", "curr_items": "1", "delete_hits": "1"}.items():
                if ask(ports[1], "stats").get(key) != value:
                    failed.append(f"{key} is {ask(ports[1], 'stats').get(key)}, not {value}")
            for mode, row in (("display", r"^\s*1\s+\d+B\s+\d+s\s+\d+\s+1\s"), ("stats", r"curr_items\s+1\b"), ("settings", r"maxbytes\s+67108864"), ("sizes", r"\d+\s+1\b")):
                shown = subprocess.run(["perl", tool, f"127.0.0.1:{ports[1]}", mode], capture_output=True, text=True, timeout=30).stdout
                if re.search(row, shown, re.M):
                    passed += 1
                else:
                    failed.append(f"memcached-tool {mode} shows:\n{shown}")
        finally:
            for server in servers:
                server.terminate()
                server.wait()
    print("\n".join(failed + [f"monitoring: {passed} passed, {len(failed)} failed"]))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
