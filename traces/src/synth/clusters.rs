//! Figures of Twitter's 54 production clusters in March 2020, by number: from the statistics that come with Twitter's cache-trace
//! (CC BY 4.0, Twitter and the authors of Yang, Yue, Rashmi: "A large scale analysis of hundreds of in-memory cache clusters at
//! Twitter", OSDI 2020).

/// What is known of a cluster's requests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cluster {
    /// Its number there.
    pub(super) number: u32,
    /// Mean key size.
    pub(super) key: u32,
    /// Mean value size.
    pub(super) value: u32,
    /// Requests for each object.
    pub(super) frequency: f64,
    /// Share of the objects that are asked for once.
    pub(super) one_hit: f64,
    /// Exponent of Zipf's law.
    pub(super) alpha: f64,
    /// The most common times to live in seconds, with their shares.
    pub(super) ttls: &'static [(u32, f64)],
    /// Operations but get, with their shares of the requests.
    pub(super) writes: &'static [(&'static str, f64)],
}

/// Clusters of which Twitter published no figures.
pub(super) const UNKNOWN: &[u32] = &[5];

#[rustfmt::skip]
pub(super) const CLUSTERS: &[Cluster] = &[
    Cluster { number: 1, key: 80, value: 267, frequency: 26574.9, one_hit: 0.0001, alpha: 2.6774, ttls: &[(240, 1.0)], writes: &[] },
    Cluster { number: 2, key: 21, value: 68, frequency: 934.5, one_hit: 0.0001, alpha: 1.4908, ttls: &[(345600, 0.59), (172800, 0.41)], writes: &[] },
    Cluster { number: 3, key: 19, value: 120, frequency: 91.4, one_hit: 0.1566, alpha: 1.6414, ttls: &[(604800, 1.0)], writes: &[] },
    Cluster { number: 4, key: 67, value: 2439, frequency: 26.5, one_hit: 0.2933, alpha: 1.1004, ttls: &[(60, 0.39), (300, 0.24), (3600, 0.13), (600, 0.12), (14400, 0.09), (86400, 0.03)], writes: &[("set", 0.07)] },
    Cluster { number: 6, key: 44, value: 252, frequency: 327.3, one_hit: 0.0063, alpha: 1.882, ttls: &[(520, 0.03), (510, 0.03), (490, 0.03), (590, 0.03), (540, 0.03), (550, 0.03), (570, 0.02), (500, 0.02), (580, 0.02), (596, 0.02)], writes: &[("set", 0.02)] },
    Cluster { number: 7, key: 17, value: 1936, frequency: 72.9, one_hit: 0.0001, alpha: 1.0666, ttls: &[(6480, 0.28), (6120, 0.24), (6840, 0.23), (5760, 0.13), (7200, 0.12)], writes: &[("set", 0.18)] },
    Cluster { number: 8, key: 23, value: 9497, frequency: 1532.6, one_hit: 0.0034, alpha: 1.7366, ttls: &[(1380, 0.95), (1379, 0.05)], writes: &[("set", 0.5)] },
    Cluster { number: 9, key: 32, value: 39, frequency: 463.9, one_hit: 0.085, alpha: 1.6796, ttls: &[(7200, 0.79), (5040, 0.02), (3960, 0.02), (6840, 0.02), (5760, 0.02), (4320, 0.02), (6480, 0.02), (5400, 0.02), (6120, 0.02), (4680, 0.02)], writes: &[] },
    Cluster { number: 10, key: 22, value: 2333, frequency: 2.0, one_hit: 0.0008, alpha: 0.0, ttls: &[(7200, 1.0)], writes: &[("add", 0.5)] },
    Cluster { number: 11, key: 24, value: 170, frequency: 45.7, one_hit: 0.0618, alpha: 1.4891, ttls: &[(432000, 0.97), (20, 0.03)], writes: &[("add", 0.02), ("gets", 0.01), ("cas", 0.01)] },
    Cluster { number: 12, key: 44, value: 1030, frequency: 1.3, one_hit: 0.8143, alpha: 0.3048, ttls: &[(300, 0.98), (299, 0.02)], writes: &[("set", 0.8)] },
    Cluster { number: 13, key: 44, value: 4266, frequency: 1.6, one_hit: 0.6439, alpha: 0.4565, ttls: &[(300, 0.97), (299, 0.03)], writes: &[("set", 0.62)] },
    Cluster { number: 14, key: 96, value: 414, frequency: 35.4, one_hit: 0.1094, alpha: 1.2959, ttls: &[(86400, 1.0)], writes: &[("delete", 0.22), ("set", 0.13)] },
    Cluster { number: 15, key: 18, value: 102, frequency: 1.0, one_hit: 0.9957, alpha: 0.0242, ttls: &[(30, 1.0)], writes: &[("set", 1.0)] },
    Cluster { number: 16, key: 18, value: 115, frequency: 277.0, one_hit: 0.0189, alpha: 1.7862, ttls: &[(3600, 0.99)], writes: &[("set", 0.04), ("add", 0.01)] },
    Cluster { number: 17, key: 19, value: 212, frequency: 60.8, one_hit: 0.3887, alpha: 2.1106, ttls: &[(432000, 1.0)], writes: &[] },
    Cluster { number: 18, key: 18, value: 37, frequency: 660.5, one_hit: 0.0071, alpha: 2.0994, ttls: &[(43200, 1.0)], writes: &[("add", 0.01), ("gets", 0.01), ("cas", 0.01)] },
    Cluster { number: 19, key: 42, value: 101, frequency: 4.7, one_hit: 0.0746, alpha: 0.735, ttls: &[(27000, 0.08), (26640, 0.07), (23760, 0.07), (25920, 0.07), (24120, 0.07), (25200, 0.07), (25560, 0.07), (24480, 0.07), (24840, 0.07), (26280, 0.06)], writes: &[("set", 0.25)] },
    Cluster { number: 20, key: 26, value: 55, frequency: 29.7, one_hit: 0.6154, alpha: 1.3699, ttls: &[(432000, 0.99)], writes: &[("add", 0.03)] },
    Cluster { number: 21, key: 25, value: 1, frequency: 1.1, one_hit: 0.9896, alpha: 0.0521, ttls: &[(7920, 0.62), (10, 0.23), (900, 0.14)], writes: &[("add", 1.0)] },
    Cluster { number: 22, key: 54, value: 4, frequency: 4.3, one_hit: 0.4148, alpha: 0.7624, ttls: &[(86400, 0.85), (3600, 0.11), (1800, 0.03)], writes: &[("incr", 0.18), ("set", 0.1)] },
    Cluster { number: 23, key: 35, value: 224, frequency: 3.9, one_hit: 0.0117, alpha: 0.274, ttls: &[(120, 0.93), (2700, 0.05), (5, 0.03)], writes: &[("set", 0.31), ("incr", 0.3), ("delete", 0.02)] },
    Cluster { number: 24, key: 32, value: 699, frequency: 134.8, one_hit: 0.0565, alpha: 1.3726, ttls: &[(1209600, 0.71), (60, 0.19), (2592000, 0.03), (86400, 0.02), (3600, 0.02)], writes: &[] },
    Cluster { number: 25, key: 49, value: 28, frequency: 662.7, one_hit: 0.0322, alpha: 0.9929, ttls: &[(2592000, 0.99)], writes: &[("add", 0.02), ("gets", 0.02), ("cas", 0.02)] },
    Cluster { number: 26, key: 122, value: 1745, frequency: 13.0, one_hit: 0.0011, alpha: 0.6299, ttls: &[(60, 0.67), (120, 0.1), (360, 0.09), (600, 0.06), (660, 0.03), (180, 0.02)], writes: &[("set", 0.29)] },
    Cluster { number: 27, key: 66, value: 8, frequency: 9.0, one_hit: 0.2221, alpha: 1.065, ttls: &[(8000640, 0.28), (86400, 0.25), (3600, 0.2), (14400, 0.18), (21600, 0.06), (43200, 0.02)], writes: &[("set", 0.15)] },
    Cluster { number: 28, key: 45, value: 85, frequency: 66.2, one_hit: 0.2713, alpha: 1.503, ttls: &[(10800, 0.56), (103680, 0.43)], writes: &[("set", 0.03), ("add", 0.03)] },
    Cluster { number: 29, key: 36, value: 799, frequency: 22.5, one_hit: 0.2304, alpha: 1.2323, ttls: &[(3600, 0.67), (7200, 0.33)], writes: &[("set", 0.13)] },
    Cluster { number: 30, key: 22, value: 689, frequency: 154.4, one_hit: 0.0277, alpha: 1.4259, ttls: &[(43200, 0.36), (36720, 0.04), (42480, 0.04), (34920, 0.03), (38160, 0.03), (41400, 0.03), (39600, 0.03), (40680, 0.03), (42120, 0.03), (42840, 0.03)], writes: &[] },
    Cluster { number: 31, key: 41, value: 15, frequency: 1.1, one_hit: 0.9406, alpha: 0.0, ttls: &[(60, 1.0)], writes: &[("set", 0.94)] },
    Cluster { number: 32, key: 41, value: 138, frequency: 1.0, one_hit: 0.9756, alpha: 0.0, ttls: &[(60, 1.0)], writes: &[("set", 0.98)] },
    Cluster { number: 33, key: 24, value: 1118, frequency: 254.5, one_hit: 0.0099, alpha: 1.354, ttls: &[(38520, 0.05), (40320, 0.05), (42120, 0.04), (41760, 0.04), (41400, 0.04), (39240, 0.04), (40680, 0.04), (38160, 0.04), (35280, 0.04), (39960, 0.04)], writes: &[("set", 0.01)] },
    Cluster { number: 34, key: 33, value: 322, frequency: 49.4, one_hit: 0.0026, alpha: 1.1401, ttls: &[(38160, 0.04), (37800, 0.04), (39960, 0.04), (35280, 0.04), (40320, 0.04), (38520, 0.04), (34920, 0.04), (36000, 0.04), (36360, 0.03), (37440, 0.03)], writes: &[("set", 0.06)] },
    Cluster { number: 35, key: 19, value: 1796, frequency: 14.8, one_hit: 0.3101, alpha: 0.0, ttls: &[(60, 1.0)], writes: &[("set", 0.04)] },
    Cluster { number: 36, key: 23, value: 78, frequency: 46.8, one_hit: 0.024, alpha: 1.2169, ttls: &[(2592000, 1.0)], writes: &[("add", 0.04), ("gets", 0.01), ("cas", 0.01)] },
    Cluster { number: 37, key: 72, value: 20134, frequency: 3.8, one_hit: 0.1488, alpha: 0.4251, ttls: &[(20, 0.91), (300, 0.06), (7200, 0.02), (600, 0.01)], writes: &[("set", 0.37)] },
    Cluster { number: 38, key: 41, value: 185, frequency: 1.1, one_hit: 0.9406, alpha: 0.0, ttls: &[(60, 1.0)], writes: &[("set", 0.94)] },
    Cluster { number: 39, key: 41, value: 80, frequency: 1.1, one_hit: 0.9406, alpha: 0.0, ttls: &[(60, 1.0)], writes: &[("set", 0.94)] },
    Cluster { number: 40, key: 44, value: 155, frequency: 11.8, one_hit: 0.001, alpha: 0.8551, ttls: &[(28800, 0.95), (86400, 0.05)], writes: &[("set", 0.5)] },
    Cluster { number: 41, key: 44, value: 171, frequency: 11.8, one_hit: 0.0, alpha: 0.8542, ttls: &[(28800, 0.95), (86400, 0.05)], writes: &[("set", 0.5)] },
    Cluster { number: 42, key: 40, value: 4703, frequency: 229.9, one_hit: 0.0005, alpha: 1.5974, ttls: &[(600, 0.82), (300, 0.16), (21600, 0.02)], writes: &[("add", 0.04)] },
    Cluster { number: 43, key: 44, value: 304, frequency: 18.4, one_hit: 0.0, alpha: 0.0, ttls: &[(28800, 1.0)], writes: &[("set", 0.5)] },
    Cluster { number: 44, key: 25, value: 22, frequency: 60.5, one_hit: 0.2024, alpha: 1.4084, ttls: &[(2592000, 1.0)], writes: &[("add", 0.01)] },
    Cluster { number: 45, key: 10, value: 120, frequency: 2.9, one_hit: 0.4874, alpha: 0.6372, ttls: &[(1296000, 1.0)], writes: &[("add", 0.15)] },
    Cluster { number: 46, key: 44, value: 928, frequency: 5.2, one_hit: 0.0012, alpha: 0.0, ttls: &[(43200, 0.58), (3600, 0.41)], writes: &[("set", 0.32)] },
    Cluster { number: 47, key: 44, value: 267, frequency: 838.6, one_hit: 0.0428, alpha: 2.0637, ttls: &[(172800, 1.0)], writes: &[] },
    Cluster { number: 48, key: 44, value: 70, frequency: 3.5, one_hit: 0.4428, alpha: 0.8191, ttls: &[(86400, 1.0)], writes: &[("set", 0.35)] },
    Cluster { number: 49, key: 44, value: 10658, frequency: 154.2, one_hit: 0.0088, alpha: 1.5095, ttls: &[(86400, 0.99), (86400, 0.01)], writes: &[("set", 0.43)] },
    Cluster { number: 50, key: 18, value: 67485, frequency: 22.1, one_hit: 0.0786, alpha: 1.2816, ttls: &[(900, 0.73), (1200, 0.24), (1199, 0.03)], writes: &[("set", 0.48)] },
    Cluster { number: 51, key: 44, value: 221, frequency: 814.8, one_hit: 0.0565, alpha: 1.9745, ttls: &[(172800, 1.0)], writes: &[("set", 0.1)] },
    Cluster { number: 52, key: 20, value: 273, frequency: 32.6, one_hit: 0.1936, alpha: 1.2117, ttls: &[(86400, 0.65), (1209600, 0.27), (43200, 0.07)], writes: &[("add", 0.04), ("gets", 0.02), ("cas", 0.02)] },
    Cluster { number: 53, key: 36, value: 9213, frequency: 27.6, one_hit: 0.1319, alpha: 1.2061, ttls: &[(2592000, 0.66), (1814400, 0.34)], writes: &[("set", 0.03), ("prepend", 0.09)] },
    Cluster { number: 54, key: 19, value: 246, frequency: 9.8, one_hit: 0.5483, alpha: 1.611, ttls: &[(13680, 0.13), (11880, 0.13), (12240, 0.13), (14040, 0.12), (12600, 0.12), (12960, 0.12), (13320, 0.11), (14400, 0.07), (11520, 0.06)], writes: &[("set", 0.03)] },
];
