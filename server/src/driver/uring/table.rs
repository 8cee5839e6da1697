//! Things that come and go, named by numbers that are not given twice in a long time: an answer that comes late for something
//! that has gone finds nothing.

/// Bits of an id that count how often its place was used; the rest is the place.
const GENERATION_BITS: u32 = 28;

struct Place<T> {
    generation: u32,
    thing: Option<T>,
}

pub(super) struct Table<T> {
    places: Vec<Place<T>>,
    free: Vec<u32>,
}

impl<T> Default for Table<T> {
    fn default() -> Table<T> {
        Table { places: Vec::new(), free: Vec::new() }
    }
}

impl<T> Table<T> {
    /// Puts something in and names it; ids are below 2^60.
    pub(super) fn insert(&mut self, thing: T) -> u64 {
        let at = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place { generation: 0, thing: None });
            (self.places.len() - 1) as u32
        });
        let place = &mut self.places[at as usize];
        place.thing = Some(thing);
        u64::from(place.generation) << 32 | u64::from(at)
    }

    fn place(&mut self, id: u64) -> Option<&mut Place<T>> {
        let place = self.places.get_mut(id as u32 as usize)?;
        (u64::from(place.generation) == id >> 32).then_some(place)
    }

    pub(super) fn get_mut(&mut self, id: u64) -> Option<&mut T> {
        self.place(id)?.thing.as_mut()
    }

    pub(super) fn remove(&mut self, id: u64) -> Option<T> {
        let place = self.place(id)?;
        let thing = place.thing.take()?;
        place.generation = (place.generation + 1) & ((1 << GENERATION_BITS) - 1);
        self.free.push(id as u32);
        Some(thing)
    }

    /// Ids of all that is there.
    pub(super) fn ids(&self) -> Vec<u64> {
        let places = self.places.iter().enumerate().filter(|(_, place)| place.thing.is_some());
        places.map(|(at, place)| u64::from(place.generation) << 32 | at as u64).collect()
    }

    /// How many are there.
    pub(super) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_does_not_name_what_came_later() {
        let mut table = Table::default();
        let (a, b) = (table.insert('a'), table.insert('b'));
        assert_eq!((table.remove(a), table.get_mut(a)), (Some('a'), None));
        let c = table.insert('c');
        assert_ne!(a, c);
        assert_eq!([a, b, c].map(|id| table.get_mut(id).copied()), [None, Some('b'), Some('c')]);
        assert_eq!((table.ids(), table.is_empty()), (vec![c, b], false));
    }
}
