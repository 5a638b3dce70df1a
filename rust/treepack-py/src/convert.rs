//! Numbers from and to Python: the right dtype and shape, or an error that names them.

use numpy::ndarray::Array2;
use numpy::{
    Element, IntoPyArray, PyArray2, PyArrayDescrMethods, PyArrayDyn, PyArrayMethods,
    PyReadonlyArrayDyn, PyUntypedArray, PyUntypedArrayMethods,
};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict};

use crate::errors::TreeError;

/// What an argument must consist of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Numbers {
    Integers,
    Reals,
}

/// Reads an integer array of a shape (`None` is any size) as int64, without a copy if it is one.
pub fn integers<'py>(
    name: &str,
    value: &Bound<'py, PyAny>,
    shape: &[Option<usize>],
) -> PyResult<PyReadonlyArrayDyn<'py, i64>> {
    let array = array(name, value, Numbers::Integers)?;
    check_shape(name, array.shape(), shape)?;
    Ok(array)
}

/// Reads an array of numbers `[n]` as float32, without a copy if it is one.
pub fn reals<'py>(name: &str, value: &Bound<'py, PyAny>) -> PyResult<PyReadonlyArrayDyn<'py, f32>> {
    let array = array(name, value, Numbers::Reals)?;
    check_shape(name, array.shape(), &[None])?;
    Ok(array)
}

/// Reads one integer: a Python or numpy int, but neither a bool nor a float.
pub fn integer(name: &str, value: &Bound<'_, PyAny>) -> PyResult<i64> {
    let fits = if value.is_instance_of::<PyBool>() {
        None
    } else {
        value.extract().ok()
    };
    match fits {
        Some(number) => Ok(number),
        None => Err(TreeError::new_err(format!(
            "{name} must be an integer that fits int64, got {}",
            value.repr()?
        ))),
    }
}

/// Hands a matrix, row by row, to numpy without a copy.
pub fn matrix<T: Element>(
    py: Python<'_>,
    shape: [usize; 2],
    values: Vec<T>,
) -> PyResult<Bound<'_, PyArray2<T>>> {
    let array = Array2::from_shape_vec(shape, values);
    Ok(array
        .map_err(|e| TreeError::new_err(e.to_string()))?
        .into_pyarray(py))
}

fn array<'py, T: Element>(
    name: &str,
    value: &Bound<'py, PyAny>,
    numbers: Numbers,
) -> PyResult<PyReadonlyArrayDyn<'py, T>> {
    if let Ok(array) = value.cast::<PyArrayDyn<T>>() {
        if array.is_c_contiguous() && array.is_aligned() {
            return Ok(array.try_readonly()?);
        }
    }
    let numpy = value.py().import("numpy")?;
    let unread = |e: PyErr| TreeError::new_err(format!("{name} cannot be read as an array: {e}"));
    let array = numpy.call_method1("asarray", (value,)).map_err(unread)?;
    check_dtype(name, value, &array, numbers)?;
    let options = PyDict::new(value.py());
    options.set_item("order", "C")?;
    let typed = array.call_method("astype", (numpy::dtype::<T>(value.py()),), Some(&options))?;
    Ok(typed.cast_into::<PyArrayDyn<T>>()?.try_readonly()?)
}

fn check_dtype(
    name: &str,
    value: &Bound<'_, PyAny>,
    array: &Bound<'_, PyAny>,
    numbers: Numbers,
) -> PyResult<()> {
    let untyped = array.cast::<PyUntypedArray>()?;
    // An empty list has no dtype of its own.
    if untyped.is_empty() && !value.is_instance_of::<PyUntypedArray>() {
        return Ok(());
    }
    let dtype = untyped.dtype();
    let (fits, wanted) = match (numbers, dtype.kind()) {
        (Numbers::Integers, b'i' | b'u') => (true, "integers"),
        (Numbers::Integers, _) => (false, "integers"),
        (Numbers::Reals, kind) => (b"iuf".contains(&kind), "real numbers"),
    };
    if !fits {
        let message = format!("{name} must be {wanted}, got {dtype}; convert them first");
        return Err(TreeError::new_err(message));
    }
    if numbers == Numbers::Integers && dtype.kind() == b'u' && !untyped.is_empty() {
        integer(
            &format!("the largest of {name}"),
            &array.call_method0("max")?,
        )?;
    }
    Ok(())
}

fn check_shape(name: &str, shape: &[usize], wanted: &[Option<usize>]) -> PyResult<()> {
    let fits = shape.len() == wanted.len()
        && shape
            .iter()
            .zip(wanted)
            .all(|(got, want)| want.is_none_or(|want| want == *got));
    if fits {
        return Ok(());
    }
    Err(TreeError::new_err(format!(
        "{name} has shape {}, expected {}",
        in_brackets(shape.iter().map(ToString::to_string)),
        in_brackets(
            wanted
                .iter()
                .map(|want| want.map_or_else(|| "n".into(), |n| n.to_string()))
        ),
    )))
}

fn in_brackets(sizes: impl Iterator<Item = String>) -> String {
    format!("[{}]", sizes.collect::<Vec<_>>().join(", "))
}
