//! Random histories of three nodes: whatever comes in whatever order, lost and repeated, all show the
//! same in the end, and no word that was saved is missing.

use proptest::prelude::*;
use serde_json::Value;

use crate::node::{Node, send};

const NODES: usize = 3;

#[derive(Debug, Clone)]
enum Step {
    /// Types a word of its own somewhere.
    Type {
        node: usize,
        at: usize,
    },
    /// Deletes some characters that are no words of these histories.
    Push {
        node: usize,
        at: usize,
    },
    Move {
        node: usize,
        from: usize,
        to: usize,
    },
    Set {
        node: usize,
        key: u8,
    },
    Mark {
        node: usize,
        at: usize,
    },
    /// Everything that one knows comes to another.
    Send {
        from: usize,
        to: usize,
    },
    /// The same message comes to another, late: it was made at the start.
    Repeat {
        to: usize,
    },
    /// Another handle of the document, as after a start.
    Reopen {
        node: usize,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let node = 0..NODES;
    let step = prop_oneof![
        4 => (node.clone(), any::<usize>()).prop_map(|(node, at)| Step::Type { node, at }),
        2 => (node.clone(), any::<usize>()).prop_map(|(node, at)| Step::Push { node, at }),
        1 => (node.clone(), any::<usize>(), any::<usize>())
            .prop_map(|(node, from, to)| Step::Move { node, from, to }),
        1 => (node.clone(), 0_u8..3).prop_map(|(node, key)| Step::Set { node, key }),
        1 => (node.clone(), any::<usize>()).prop_map(|(node, at)| Step::Mark { node, at }),
        3 => (node.clone(), node.clone()).prop_map(|(from, to)| Step::Send { from, to }),
        1 => node.clone().prop_map(|to| Step::Repeat { to }),
        1 => node.prop_map(|node| Step::Reopen { node }),
    ];
    prop::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn documents_are_equal_in_the_end_and_no_word_is_lost(steps in steps()) {
        let nodes: Vec<Node> = (0..NODES).map(|_| Node::new()).collect();
        nodes[0].notes.create("plan").unwrap();
        let early = nodes[0].manager.export().unwrap();
        for node in &nodes {
            node.manager.reconcile(&early).unwrap();
        }
        let mut documents: Vec<_> = nodes.iter().map(|node| node.get("plan")).collect();
        let mut words = Vec::new();
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Type { node, at } => {
                    let word = format!("<{number}>");
                    documents[node]
                        .edit(|editor| {
                            let body = editor.text("body")?;
                            // At the ends of words: other words may not be torn apart.
                            let text = body.to_string();
                            let ends: Vec<usize> = std::iter::once(0)
                                .chain(text.char_indices().filter(|(_, c)| *c == '>').map(|(i, _)| i + 1))
                                .collect();
                            body.insert(ends[at % ends.len()], &word)
                        })
                        .unwrap();
                    words.push(word);
                }
                Step::Push { node, at } => documents[node]
                    .edit(|editor| {
                        let list = editor.list("items")?;
                        list.insert(at % (list.len() + 1), number)
                    })
                    .unwrap(),
                Step::Move { node, from, to } => documents[node]
                    .edit(|editor| {
                        let list = editor.list("items")?;
                        match list.len() {
                            0 => Ok(()),
                            len => list.move_item(from % len, to % len),
                        }
                    })
                    .unwrap(),
                Step::Set { node, key } => documents[node]
                    .edit(|editor| editor.map("meta")?.insert(&key.to_string(), number))
                    .unwrap(),
                Step::Mark { node, at } => documents[node]
                    .edit(|editor| {
                        let body = editor.text("body")?;
                        let end = at % (body.len() + 1);
                        body.mark(end / 2..end, "bold", number)
                    })
                    .unwrap(),
                Step::Send { from, to } => drop(send(&nodes[from], &nodes[to])),
                Step::Repeat { to } => drop(nodes[to].manager.reconcile(&early).unwrap()),
                Step::Reopen { node } => documents[node] = nodes[node].get("plan"),
            }
        }
        for _ in 0..2 {
            for from in 0..NODES {
                for to in 0..NODES {
                    send(&nodes[from], &nodes[to]);
                }
            }
        }
        let shown = |number: usize| -> (Value, _) {
            let document = &documents[number];
            (document.to_json().unwrap(), document.spans("body").unwrap())
        };
        let first = shown(0);
        let text = documents[0].text("body").unwrap();
        for word in &words {
            prop_assert_eq!(text.matches(word.as_str()).count(), 1, "{} in {}", word, text);
        }
        for (number, node) in nodes.iter().enumerate() {
            prop_assert_eq!(&shown(number), &first);
            prop_assert_eq!(node.manager.root(), nodes[0].manager.root());
            // A handle that reads it all at once sees what one sees that followed.
            prop_assert_eq!(&node.get("plan").to_json().unwrap(), &first.0);
            prop_assert!(node.get("plan").refused().unwrap().is_empty());
        }
    }
}
