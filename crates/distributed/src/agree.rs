use std::collections::{BTreeMap, BTreeSet};

use crate::{Error, Group, Result};

/// Compares what must be the same for all members: facts by name.
///
/// ```
/// use kakusan_distributed::{Group, Threads, agree};
///
/// let answers: Vec<String> = std::thread::scope(|scope| {
///     let ask = |member: Threads| {
///         let seed = if member.rank() == 2 { "1" } else { "0" };
///         agree(&member, &[("train.seed".to_owned(), seed.to_owned())].into()).unwrap_err().to_string()
///     };
///     let threads: Vec<_> = Threads::group(3).into_iter().map(|member| scope.spawn(move || ask(member))).collect();
///     threads.into_iter().map(|thread| thread.join().unwrap()).collect()
/// });
/// assert!(answers[0].ends_with("train.seed is `1` on rank 2, but `0` on rank 0"));
/// assert_eq!(answers[0], answers[2]);
/// ```
///
/// # Errors
/// [`Error::Differ`] with all differences from rank 0, the same on each rank; and as [`Group::all_to_all`].
pub fn agree(group: &dyn Group, facts: &BTreeMap<String, String>) -> Result<()> {
    let texts = facts.iter().flat_map(|(name, value)| [name.as_str(), value.as_str()]);
    let all = group.all_gather(&packed(texts))?;
    let all = all.iter().enumerate().map(|(rank, message)| {
        let texts = unpacked(message).filter(|texts| texts.len() % 2 == 0);
        let texts = texts.ok_or_else(|| Error::Message { rank, reason: "it does not list facts".to_owned() })?;
        Ok(texts.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect())
    });
    let all = all.collect::<Result<Vec<BTreeMap<String, String>>>>()?;
    let Some((first, others)) = all.split_first() else { return Ok(()) };
    let mut differences = vec![];
    for (rank, facts) in (1..).zip(others) {
        for name in first.keys().chain(facts.keys()).collect::<BTreeSet<_>>() {
            let show =
                |facts: &BTreeMap<String, String>| facts.get(name).map_or("not set".into(), |v| format!("`{v}`"));
            let (here, there) = (show(first), show(facts));
            if here != there {
                differences.push(format!("{name} is {there} on rank {rank}, but {here} on rank 0"));
            }
        }
    }
    if differences.is_empty() {
        return Ok(());
    }
    // All find the same. One that ends ends the others, so none does before all have read what the others sent.
    let _ = group.all_gather(&[]);
    Err(Error::Differ(differences))
}

/// Texts as bytes, each behind its length.
fn packed<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<u8> {
    texts.flat_map(|text| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()).collect()
}

fn unpacked(mut bytes: &[u8]) -> Option<Vec<String>> {
    let mut texts = vec![];
    while !bytes.is_empty() {
        let (length, rest) = bytes.split_first_chunk()?;
        let (text, rest) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
        texts.push(String::from_utf8(text.to_vec()).ok()?);
        bytes = rest;
    }
    Some(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_survive_and_damaged_ones_are_refused() {
        let bytes = packed(["", "a\nb", "拡散"].into_iter());
        assert_eq!(unpacked(&bytes).unwrap(), ["", "a\nb", "拡散"]);
        assert_eq!(unpacked(&bytes[..bytes.len() - 1]), None);
        assert_eq!(unpacked(&[255; 20]), None);
    }
}
