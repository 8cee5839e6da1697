//! Which of many tenants tables and plots tell of.

use std::collections::BTreeMap;

/// Tenants that are told of: of thousands nobody reads a table.
const TENANTS_TOLD: usize = 50;

/// Those of most requests, in the order of their names, and what is to be said of the others.
pub(crate) fn told<T>(
    tenants: &BTreeMap<String, T>,
    requests: impl Fn(&T) -> u64,
) -> (Vec<(&String, &T)>, Option<String>) {
    let mut all: Vec<_> = tenants.iter().collect();
    let left_out = all.len().saturating_sub(TENANTS_TOLD);
    if left_out == 0 {
        return (all, None);
    }
    all.sort_by_key(|(_, own)| std::cmp::Reverse(requests(own)));
    all.truncate(TENANTS_TOLD);
    all.sort_by_key(|(name, _)| *name);
    (all, Some(format!("{left_out} tenants with fewer requests are not told of here; --json FILE writes all")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_are_told_of_by_name_and_the_others_counted() {
        let tenants = |count: u64| (0..count).map(|n| (format!("t{n:03}"), n)).collect::<BTreeMap<_, _>>();
        let few = tenants(TENANTS_TOLD as u64);
        assert_eq!(told(&few, |n| *n), (few.iter().collect(), None));
        let many = tenants(TENANTS_TOLD as u64 + 3);
        let (named, rest) = told(&many, |n| *n);
        assert_eq!(named, many.iter().skip(3).collect::<Vec<_>>());
        assert!(rest.is_some_and(|rest| rest.starts_with("3 tenants with fewer")));
    }
}
