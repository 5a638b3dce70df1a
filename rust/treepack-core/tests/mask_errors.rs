//! Every way in which the description of a row can be wrong, one test for each.

use treepack_core::mask::{
    Bidirectional, ImageRun, RootPositions, TargetNodes, TreeError, TreeMask,
};

const HUGE: i64 = 1 << 31;

fn nodes(lengths: &[i64], parents: &[i64]) -> TreeError {
    TreeMask::from_nodes(lengths, parents, &[], Bidirectional::None, None).unwrap_err()
}

/// A root of 6 tokens with branches of 4 and 3, and one token of padding.
fn row(runs: &[(i64, i64, i64)], mode: Bidirectional) -> Result<TreeMask, TreeError> {
    let runs: Vec<ImageRun> = runs
        .iter()
        .map(|&(start, end, image)| ImageRun { start, end, image })
        .collect();
    TreeMask::from_nodes(&[6, 4, 3], &[-1, 0, 0], &runs, mode, Some(14))
}

/// The error is the same in every mode: also where the grouping does not matter.
fn runs(runs: &[(i64, i64, i64)]) -> TreeError {
    let error = row(runs, Bidirectional::None).unwrap_err();
    for mode in [Bidirectional::ImageTokens, Bidirectional::WithinImage] {
        assert_eq!(row(runs, mode).unwrap_err(), error);
    }
    error
}

fn plain() -> TreeMask {
    row(&[], Bidirectional::None).unwrap()
}

fn targets(nodes: &[i64], lens: [usize; 4]) -> TreeError {
    let [labels, weights, end_targets, end_weights] = lens;
    let input = TargetNodes {
        nodes,
        labels: &vec![1; labels],
        weights: &vec![1.0; weights],
        end_targets: &vec![1; end_targets],
        end_weights: &vec![1.0; end_weights],
    };
    plain().targets(&input).unwrap_err()
}

#[test]
fn lengths_and_parents_differ() {
    assert_eq!(
        nodes(&[1, 2], &[-1]),
        TreeError::LengthMismatch {
            lengths: 2,
            parents: 1
        }
    );
}

#[test]
fn no_nodes() {
    assert_eq!(nodes(&[], &[]), TreeError::NoNodes);
}

#[test]
fn a_negative_length() {
    assert_eq!(
        nodes(&[3, -2], &[-1, 0]),
        TreeError::NegativeLength {
            node: 1,
            length: -2
        }
    );
}

#[test]
fn an_empty_root() {
    assert_eq!(nodes(&[3, 0], &[-1, -1]), TreeError::EmptyRoot { node: 1 });
}

#[test]
fn a_parent_below_minus_one() {
    for parent in [-2, i64::MIN] {
        let error = TreeError::ParentOutOfRange { node: 1, parent };
        assert_eq!(nodes(&[3, 1], &[-1, parent]), error);
    }
}

#[test]
fn a_parent_that_is_not_before_its_child() {
    for parent in [1, 2, i64::MAX] {
        let error = TreeError::ParentAfterChild { node: 1, parent };
        assert_eq!(nodes(&[3, 1, 1], &[-1, parent, 0]), error);
    }
    assert_eq!(
        nodes(&[1], &[0]),
        TreeError::ParentAfterChild { node: 0, parent: 0 }
    );
}

#[test]
fn a_parent_whose_subtree_is_over() {
    let error = TreeError::NotPreorder { node: 3, parent: 1 };
    assert_eq!(nodes(&[1, 1, 1, 1], &[-1, 0, 0, 1]), error);
    let error = TreeError::NotPreorder { node: 2, parent: 0 };
    assert_eq!(nodes(&[1, 1, 1], &[-1, -1, 0]), error);
}

#[test]
fn too_many_tokens_for_int32() {
    let error = TreeError::RowTooLong {
        what: "tokens",
        count: HUGE,
    };
    assert_eq!(nodes(&[HUGE - 1, 1], &[-1, 0]), error);
    let error = TreeError::RowTooLong {
        what: "tokens",
        count: i64::MAX,
    };
    assert_eq!(nodes(&[1, i64::MAX], &[-1, 0]), error);
    let padded = TreeMask::from_nodes(&[1], &[-1], &[], Bidirectional::None, Some(HUGE));
    assert_eq!(
        padded,
        Err(TreeError::RowTooLong {
            what: "tokens",
            count: HUGE
        })
    );
}

#[test]
fn the_longest_row_is_accepted() {
    let mode = Bidirectional::None;
    let mask = TreeMask::from_nodes(&[HUGE - 1], &[-1], &[], mode, None).unwrap();
    assert_eq!(mask.area(), (1 << 30) * ((1 << 31) - 1));
    assert!(mask.plan().is_ok());
}

#[test]
fn total_below_the_tokens() {
    for total in [4, -1] {
        let mask = TreeMask::from_nodes(&[3, 2], &[-1, 0], &[], Bidirectional::None, Some(total));
        assert_eq!(mask, Err(TreeError::TotalTooSmall { total, used: 5 }));
    }
}

#[test]
fn an_unknown_mode() {
    let error = TreeError::UnknownMode {
        mode: "both".into(),
    };
    assert_eq!("both".parse::<Bidirectional>(), Err(error));
}

#[test]
fn an_empty_run() {
    let error = TreeError::EmptyRun {
        run: 1,
        start: 4,
        end: 4,
    };
    assert_eq!(runs(&[(0, 2, 0), (4, 4, 1)]), error);
    assert_eq!(
        runs(&[(4, 2, 0)]),
        TreeError::EmptyRun {
            run: 0,
            start: 4,
            end: 2
        }
    );
}

#[test]
fn a_run_outside_the_row() {
    for (start, end) in [(-1, 2), (3, 15), (3, i64::MAX), (i64::MIN, 2), (15, 16)] {
        let error = TreeError::RunOutOfRange {
            run: 0,
            start,
            end,
            total: 14,
        };
        assert_eq!(runs(&[(start, end, 0)]), error);
    }
}

#[test]
fn a_run_in_the_padding() {
    for start in [12, 13] {
        let error = TreeError::RunInPadding {
            run: 0,
            start,
            end: 14,
            used: 13,
        };
        assert_eq!(runs(&[(start, 14, 0)]), error);
    }
}

#[test]
fn a_run_across_the_border_of_a_node() {
    let error = TreeError::RunCrossesNodes {
        run: 0,
        start: 5,
        end: 7,
        node: 0,
        node_end: 6,
    };
    assert_eq!(runs(&[(5, 7, 0)]), error);
}

#[test]
fn runs_out_of_order() {
    let error = TreeError::RunsUnsorted {
        run: 1,
        start: 1,
        previous: 3,
    };
    assert_eq!(runs(&[(3, 4, 0), (1, 2, 0)]), error);
}

#[test]
fn runs_that_overlap() {
    let error = TreeError::RunsOverlap {
        run: 1,
        start: 2,
        previous_end: 3,
    };
    assert_eq!(runs(&[(1, 3, 0), (2, 4, 0)]), error);
}

#[test]
fn one_image_in_two_nodes() {
    let error = TreeError::ImageInTwoNodes {
        image: 7,
        run: 2,
        first_node: 0,
        node: 1,
    };
    assert_eq!(runs(&[(0, 2, 7), (2, 3, 3), (6, 7, 7)]), error);
}

#[test]
fn interleaved_images() {
    let alternating = [(0, 1, 8), (1, 2, 9), (2, 3, 8), (3, 4, 9)];
    let error = TreeError::GroupsInterleaved {
        image: 9,
        other: 8,
        run: 3,
    };
    assert_eq!(row(&alternating, Bidirectional::WithinImage), Err(error));
    // Where images are not told apart they cannot interleave.
    assert!(row(&alternating, Bidirectional::ImageTokens).is_ok());
    assert!(row(&alternating, Bidirectional::None).is_ok());
}

#[test]
fn nested_images_are_fine() {
    let nested = [(0, 1, 8), (1, 2, 9), (3, 4, 9), (4, 5, 8), (5, 6, 7)];
    let mask = row(&nested, Bidirectional::WithinImage).unwrap();
    assert_eq!(mask.groups().run_start, [0, 4, 1, 3, 5]);
    assert_eq!(mask.groups().ptr, [0, 2, 4, 5]);
}

#[test]
fn runs_of_one_group_that_touch_are_one() {
    let touching = [(0, 2, 8), (2, 3, 8), (3, 5, 9)];
    let within = row(&touching, Bidirectional::WithinImage).unwrap();
    assert_eq!(
        (&within.groups().run_end[..], &within.groups().ptr[..]),
        (&[3, 5][..], &[0, 1, 2][..])
    );
    let across = row(&touching, Bidirectional::ImageTokens).unwrap();
    assert_eq!(
        (&across.groups().run_end[..], &across.groups().ptr[..]),
        (&[5][..], &[0, 1][..])
    );
}

#[test]
fn a_token_outside_the_row() {
    for token in [-1, 14, i64::MAX] {
        let error = Err(TreeError::TokenOutOfRange { token, total: 14 });
        assert_eq!(plain().visible(token, 0), error);
        assert_eq!(plain().visible(0, token), error);
    }
}

#[test]
fn root_positions_of_another_shape() {
    for (len, axes) in [(13, 1), (14, 2), (0, 0), (14, usize::MAX)] {
        let values = &vec![0; len];
        let error = TreeError::RootPositionsShape {
            len,
            axes,
            total: 14,
        };
        assert_eq!(
            plain().positions(Some(RootPositions { values, axes })),
            Err(error)
        );
    }
}

#[test]
fn positions_beyond_int64() {
    let values = &[i64::MAX; 14];
    let error = TreeError::PositionOverflow {
        node: 1,
        axis: 0,
        position: i64::MAX,
    };
    assert_eq!(
        plain().positions(Some(RootPositions { values, axes: 1 })),
        Err(error)
    );
}

#[test]
fn a_target_node_that_does_not_exist() {
    for node in [-1, 3, i64::MAX] {
        let error = TreeError::NodeOutOfRange {
            entry: 1,
            node,
            n_nodes: 3,
        };
        assert_eq!(targets(&[0, node], [6, 6, 2, 2]), error);
    }
}

#[test]
fn target_nodes_that_do_not_increase() {
    for node in [0, 1] {
        let error = TreeError::NodesNotIncreasing {
            entry: 1,
            node,
            previous: 1,
        };
        assert_eq!(targets(&[1, node], [8, 8, 2, 2]), error);
    }
}

#[test]
fn arrays_of_targets_of_another_length() {
    let named = [
        ("labels", 7),
        ("weights", 7),
        ("end_targets", 2),
        ("end_weights", 2),
    ];
    for (wrong, (name, expected)) in named.into_iter().enumerate() {
        for len in [expected - 1, expected + 1] {
            let mut lens = [7, 7, 2, 2];
            lens[wrong] = len;
            let error = targets(&[1, 2], lens);
            let TreeError::TargetsLength {
                name: got,
                len: seen,
                expected: limit,
                ..
            } = error
            else {
                panic!("{error}")
            };
            assert_eq!((got, seen, limit), (name, len, expected));
        }
    }
}

#[test]
fn windows_and_blocks_of_no_tokens() {
    let size = 0;
    assert_eq!(
        plain().window_plan(0),
        Err(TreeError::WindowSize { window: size })
    );
    for (block_q, block_k) in [(0, 128), (128, 0)] {
        let lists = plain().block_lists(block_q, block_k);
        assert_eq!(lists, Err(TreeError::BlockSize { size }));
    }
}

#[test]
fn a_dense_mask_that_no_machine_holds() {
    let mask = TreeMask::from_nodes(&[1], &[-1], &[], Bidirectional::None, Some(HUGE - 1)).unwrap();
    let total = mask.total();
    assert_eq!(mask.to_dense(), Err(TreeError::DenseTooLarge { total }));
}

#[test]
fn messages_name_the_place_the_number_and_the_limit() {
    let message = runs(&[(5, 7, 0)]).to_string();
    for part in ["run 0", "[5, 7)", "node 0", "ends at 6"] {
        assert!(message.contains(part), "{message}");
    }
}
