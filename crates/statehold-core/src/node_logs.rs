//! Where application state travels in a workspace: a folder for each node, beneath `state/app/`.
//!
//! What lies there can be made again by the node whose it is, and only that node writes there. So
//! no path is ever in conflict, and going back in history leaves all of it out: values come back by
//! new events, never by putting a shorter log in place of a longer one.

use crate::path::RepoPath;

/// The folder of all nodes.
pub const NODE_LOGS: &str = "state/app";

/// Digits of a node's name.
const NODE_DIGITS: usize = 32;

/// Whether a path lies in the folder of a node. Whatever else somebody keeps beneath the same folder
/// is a file like any other.
pub fn is_node_log(path: &RepoPath) -> bool {
    let inside = path.as_str().strip_prefix(NODE_LOGS);
    let inside = inside.and_then(|inside| inside.strip_prefix('/'));
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    inside
        .and_then(|inside| inside.split_once('/'))
        .is_some_and(|(node, _)| node.len() == NODE_DIGITS && node.bytes().all(is_digit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lies_in_a_nodes_folder_is_of_a_node() {
        let node = "000102030405060708090a0b0c0d0e0f";
        for (path, is_one) in [
            (format!("state/app/{node}/head"), true),
            (format!("state/app/{node}/log/00000000000000000001"), true),
            (format!("state/app/{node}"), false),
            (format!("state/app/{node}0/head"), false),
            (format!("state/apps/{node}/head"), false),
            (format!("app/{node}/head"), false),
            ("state/app/notes/today.md".into(), false),
            ("state/app/main.rs".into(), false),
        ] {
            assert_eq!(
                is_node_log(&RepoPath::parse(&path).unwrap()),
                is_one,
                "{path}"
            );
        }
    }
}
