"""meta-memcache's whole API (meta commands) against the server on the port that is given."""

import sys
import unittest

from meta_memcache import (
    CacheClient,
    Key,
    LeasePolicy,
    Miss,
    RecachePolicy,
    ServerAddress,
    SetMode,
    StalePolicy,
    Success,
    Value,
    connection_pool_factory_builder,
)
from meta_memcache.protocol import RequestFlags

PORT = int(sys.argv.pop(1))


class Api(unittest.TestCase):
    def setUp(self):
        self.client = CacheClient.cache_client_from_servers(
            servers=[ServerAddress("127.0.0.1", PORT)], connection_pool_factory_fn=connection_pool_factory_builder()
        )
        for name in ("a", "b", "n", "lease", "stale", "bin"):
            self.client.invalidate(Key(name))

    def test_set_get_delete(self):
        self.assertTrue(self.client.set("a", "text", ttl=100))
        self.assertEqual(self.client.get("a"), "text")
        self.assertTrue(self.client.set("a", {"not": ["text"]}, ttl=100))
        self.assertEqual(self.client.get("a"), {"not": ["text"]})
        self.assertEqual(self.client.get_typed("a", dict), {"not": ["text"]})
        self.assertTrue(self.client.touch("a", ttl=200))
        self.assertFalse(self.client.touch("unknown", ttl=200))
        self.assertTrue(self.client.delete("a"))
        self.assertFalse(self.client.delete("a"))
        self.assertTrue(self.client.invalidate("a"))
        self.assertIsNone(self.client.get("a"))

    def test_modes(self):
        self.assertTrue(self.client.set("a", "1", ttl=100, set_mode=SetMode.ADD))
        self.assertFalse(self.client.set("a", "2", ttl=100, set_mode=SetMode.ADD))
        self.assertFalse(self.client.refill("a", "2", ttl=100))
        self.assertTrue(self.client.set("a", b"2", ttl=100, set_mode=SetMode.APPEND))
        self.assertTrue(self.client.set("a", b"0", ttl=100, set_mode=SetMode.PREPEND))
        self.assertTrue(self.client.set("a", "3", ttl=100, set_mode=SetMode.REPLACE))
        self.assertFalse(self.client.set("b", "3", ttl=100, set_mode=SetMode.REPLACE))
        self.assertEqual(self.client.get("a"), "3")

    def test_cas(self):
        token = self.client.set_cas("a", "1", ttl=100)
        self.assertEqual(self.client.get_cas("a"), ("1", token))
        newer = self.client.set_cas("a", "2", ttl=100, cas_token=token)
        self.assertNotEqual(newer, token)
        self.assertFalse(self.client.set("a", "3", ttl=100, cas_token=token))
        self.assertFalse(self.client.delete("a", cas_token=token))
        self.assertTrue(self.client.delete("a", cas_token=newer))

    def test_many(self):
        keys = [Key(f"many{n}") for n in range(300)]
        for n, key in enumerate(keys):
            self.client.set(key, n, ttl=100, no_reply=True)
        self.assertEqual(self.client.multi_get(keys), {key: n for n, key in enumerate(keys)})
        found = self.client.multi_get_cas([keys[0], Key("unknown")])
        self.assertEqual(found[keys[0]][0], 0)
        self.assertEqual(found[Key("unknown")], (None, None))

    def test_counters(self):
        self.assertFalse(self.client.delta("n", 1))
        self.assertIsNone(self.client.delta_and_get("n", 1))
        self.assertEqual(self.client.delta_initialize_and_get("n", 5, initial_value=10, initial_ttl=100), 10)
        self.assertEqual(self.client.delta_and_get("n", 5), 15)
        self.assertEqual(self.client.delta_and_get("n", -20), 0)
        self.assertTrue(self.client.delta("n", 3))
        self.assertTrue(self.client.delta_initialize("n", 3, initial_value=0, initial_ttl=100))
        self.assertEqual(self.client.get("n"), "6 ")  # a text that got shorter keeps its length, as in memcached

    def test_lease(self):
        policy = LeasePolicy(ttl=30, miss_retries=1, miss_retry_wait=0.01)
        self.assertIsNone(self.client.get_or_lease("lease", policy))  # the winner
        result = self.client.meta_get(Key("lease"), flags=RequestFlags(return_value=True))
        self.assertIsInstance(result, Value)
        self.assertFalse(result.flags.win)
        self.assertEqual(result.size, 0)
        self.assertTrue(self.client.set("lease", "filled", ttl=100))
        self.assertEqual(self.client.get_or_lease("lease", policy), "filled")

    def test_recache(self):
        self.client.set("a", "old", ttl=20)
        self.assertIsNone(self.client.get("a", recache_policy=RecachePolicy(ttl=30)))  # the winner recaches
        self.assertEqual(self.client.get("a", recache_policy=RecachePolicy(ttl=30)), "old")
        self.client.set("a", "new", ttl=100)
        self.assertEqual(self.client.get("a", recache_policy=RecachePolicy(ttl=30)), "new")

    def test_stale(self):
        self.client.set("stale", "value", ttl=100)
        policy = StalePolicy(mark_stale_on_deletion_ttl=30)
        self.assertTrue(self.client.delete("stale", stale_policy=policy))
        self.assertIsNone(self.client.get("stale", recache_policy=RecachePolicy(ttl=10)))
        self.assertEqual(self.client.get("stale", recache_policy=RecachePolicy(ttl=10)), "value")

    def test_binary_keys(self):
        key = Key("Ünïcode ключ")
        self.assertTrue(self.client.set(key, "encoded", ttl=100))
        self.assertEqual(self.client.get(key), "encoded")
        long_key = Key("k" * 300)
        self.assertTrue(self.client.set(long_key, "long", ttl=100))
        self.assertEqual(self.client.get(long_key), "long")

    def test_meta_commands(self):
        self.assertIsInstance(self.client.meta_get(Key("b"), flags=RequestFlags(return_value=True)), Miss)
        self.assertIsInstance(self.client.meta_set(Key("b"), b"x", flags=RequestFlags(cache_ttl=100)), Success)
        flags = RequestFlags(return_value=True, return_ttl=True, return_last_access=True, return_fetched=True)
        found = self.client.meta_get(Key("b"), flags=flags)
        self.assertEqual((found.value, found.flags.fetched, found.flags.last_access), ("x", False, 0))
        self.assertTrue(90 <= found.flags.ttl <= 100, found.flags.ttl)
        self.assertTrue(self.client.meta_get(Key("b"), flags=flags).flags.fetched)
        self.assertIsInstance(self.client.meta_delete(Key("b")), Success)


if __name__ == "__main__":
    unittest.main()
