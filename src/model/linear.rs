//! The little linear algebra that the trainers need: eigenvectors of a symmetric matrix, and a system of equations.
//!
//! `pca` and `logistic` call it, on matrices of at most a few hundred rows. The same input gives the same bits.

/// A square matrix, row-major.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Square {
    pub(super) size: usize,
    pub(super) cells: Vec<f64>,
}

impl Square {
    pub(super) fn zeros(size: usize) -> Square {
        Square { size, cells: vec![0.0; size * size] }
    }

    pub(super) fn identity(size: usize) -> Square {
        let mut matrix = Square::zeros(size);
        for i in 0..size {
            *matrix.at(i, i) = 1.0;
        }
        matrix
    }

    pub(super) fn get(&self, row: usize, column: usize) -> f64 {
        self.cells[row * self.size + column]
    }

    pub(super) fn at(&mut self, row: usize, column: usize) -> &mut f64 {
        &mut self.cells[row * self.size + column]
    }
}

/// Eigenvalues, largest first, and their vectors as the columns of a matrix: cyclic Jacobi rotations.
pub(super) fn eigen(mut matrix: Square) -> (Vec<f64>, Square) {
    let size = matrix.size;
    let mut vectors = Square::identity(size);
    let scale: f64 = matrix.cells.iter().map(|c| c * c).sum();
    for _sweep in 0..64 {
        let mut rest = 0.0;
        for p in 0..size {
            for q in p + 1..size {
                rest += matrix.get(p, q).powi(2);
                rotate(&mut matrix, &mut vectors, p, q);
            }
        }
        if rest <= scale * 1e-28 {
            break;
        }
    }
    let mut order: Vec<usize> = (0..size).collect();
    order.sort_by(|&a, &b| matrix.get(b, b).total_cmp(&matrix.get(a, a)));
    let mut sorted = Square::zeros(size);
    for (to, &from) in order.iter().enumerate() {
        for row in 0..size {
            *sorted.at(row, to) = vectors.get(row, from);
        }
    }
    (order.iter().map(|&i| matrix.get(i, i)).collect(), sorted)
}

/// Turns rows and columns `p` and `q` so that the cell where they cross becomes zero.
fn rotate(matrix: &mut Square, vectors: &mut Square, p: usize, q: usize) {
    let cross = matrix.get(p, q);
    if cross == 0.0 {
        return;
    }
    let theta = (matrix.get(q, q) - matrix.get(p, p)) / (2.0 * cross);
    let tangent = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
    let cosine = 1.0 / (tangent * tangent + 1.0).sqrt();
    let sine = tangent * cosine;
    for k in 0..matrix.size {
        let (a, b) = (matrix.get(k, p), matrix.get(k, q));
        *matrix.at(k, p) = cosine * a - sine * b;
        *matrix.at(k, q) = sine * a + cosine * b;
    }
    for k in 0..matrix.size {
        let (a, b) = (matrix.get(p, k), matrix.get(q, k));
        *matrix.at(p, k) = cosine * a - sine * b;
        *matrix.at(q, k) = sine * a + cosine * b;
        let (a, b) = (vectors.get(k, p), vectors.get(k, q));
        *vectors.at(k, p) = cosine * a - sine * b;
        *vectors.at(k, q) = sine * a + cosine * b;
    }
    *matrix.at(p, q) = 0.0;
    *matrix.at(q, p) = 0.0;
}

/// Solves `matrix * x = right` for a positive definite matrix (Cholesky); `None` where it is not.
pub(super) fn solve(mut matrix: Square, right: &[f64]) -> Option<Vec<f64>> {
    let size = matrix.size;
    for column in 0..size {
        for row in column..size {
            let mut sum = matrix.get(row, column);
            for k in 0..column {
                sum -= matrix.get(row, k) * matrix.get(column, k);
            }
            if row == column {
                if sum <= 0.0 || !sum.is_finite() {
                    return None;
                }
                *matrix.at(row, row) = sum.sqrt();
            } else {
                *matrix.at(row, column) = sum / matrix.get(column, column);
            }
        }
    }
    let mut x = right.to_vec();
    for row in 0..size {
        let known: f64 = (0..row).map(|k| matrix.get(row, k) * x[k]).sum();
        x[row] = (x[row] - known) / matrix.get(row, row);
    }
    for row in (0..size).rev() {
        let known: f64 = (row + 1..size).map(|k| matrix.get(k, row) * x[k]).sum();
        x[row] = (x[row] - known) / matrix.get(row, row);
    }
    Some(x)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A symmetric positive semidefinite matrix: `A Aᵀ`, of lower rank where `A` is narrow.
    fn gram(size: usize, inner: usize, cells: &[f64]) -> Square {
        let mut matrix = Square::zeros(size);
        for row in 0..size {
            for column in 0..size {
                *matrix.at(row, column) =
                    (0..inner).map(|k| cells[row * inner + k] * cells[column * inner + k]).sum();
            }
        }
        matrix
    }

    proptest! {
        #[test]
        fn eigenvectors_rebuild_the_matrix(
            size in 1_usize..9,
            inner in 1_usize..9,
            cells in prop::collection::vec(-10.0..10.0_f64, 81),
        ) {
            let matrix = gram(size, inner, &cells);
            let (values, vectors) = eigen(matrix.clone());
            for pair in values.windows(2) {
                prop_assert!(pair[0] >= pair[1]);
            }
            for row in 0..size {
                for column in 0..size {
                    let rebuilt: f64 = (0..size)
                        .map(|k| vectors.get(row, k) * values[k] * vectors.get(column, k))
                        .sum();
                    let dot: f64 =
                        (0..size).map(|k| vectors.get(k, row) * vectors.get(k, column)).sum();
                    prop_assert!((rebuilt - matrix.get(row, column)).abs() < 1e-9);
                    let unit = if row == column { 1.0 } else { 0.0 };
                    prop_assert!((dot - unit).abs() < 1e-10);
                }
            }
        }

        #[test]
        fn a_solution_solves(
            size in 1_usize..9,
            cells in prop::collection::vec(-10.0..10.0_f64, 81),
            right in prop::collection::vec(-10.0..10.0_f64, 9),
        ) {
            let mut matrix = gram(size, size, &cells);
            for i in 0..size {
                *matrix.at(i, i) += 1.0;
            }
            let x = solve(matrix.clone(), &right[..size]).unwrap();
            for (row, right) in right.iter().take(size).enumerate() {
                let left: f64 = (0..size).map(|k| matrix.get(row, k) * x[k]).sum();
                prop_assert!((left - right).abs() < 1e-6, "{left} {right}");
            }
        }
    }

    #[test]
    fn a_matrix_that_is_not_positive_definite_has_no_solution() {
        let matrix = Square { size: 2, cells: vec![1.0, 2.0, 2.0, 1.0] };
        assert_eq!(solve(matrix, &[1.0, 1.0]), None);
    }
}
