//! The interface of operations: their reads, writes and parameters, checks and costs.

use std::borrow::Cow;

use vram_types::TensorMeta;

use crate::{DeviceError, View, ViewMut};

/// Provides other memory for the tensors of an operation; see [`Op::rebind`](super::Op::rebind). Operands are
/// requested in the order of the operation's fields, reads and writes each in their own order.
pub trait Places<'b> {
    /// A new place to read a tensor that was read from `from`, with the same shape and encoding.
    ///
    /// # Errors
    /// Any error; it ends the rebinding.
    fn read(&mut self, from: &View<'_>) -> Result<View<'b>, DeviceError>;

    /// A new place to write a tensor.
    ///
    /// # Errors
    /// Any error; it ends the rebinding.
    fn write(&mut self, meta: &TensorMeta) -> Result<ViewMut<'b>, DeviceError>;
}

/// A field of an operation, or a whole operation.
pub trait Field {
    /// The same over other memory.
    type At<'b>;

    /// Calls `f` with each tensor that is read.
    fn reads(&self, _: &mut dyn FnMut(&View<'_>)) {}

    /// Calls `f` with each tensor that is written.
    fn writes(&self, _: &mut dyn FnMut(&ViewMut<'_>)) {}

    /// The same over other memory.
    ///
    /// # Errors
    /// Errors of `places`.
    fn at<'b>(&self, places: &mut dyn Places<'b>) -> Result<Self::At<'b>, DeviceError>;
}

/// What every operation says about itself.
pub trait Operation: Field {
    /// Its name in errors and traces.
    fn name(&self) -> &'static str;

    /// Whether its tensors fit together. Which dtypes are supported is up to each backend.
    ///
    /// # Errors
    /// [`DeviceError::Shape`], or [`DeviceError::OutOfRange`] for an index outside its table.
    fn check(&self) -> Result<(), DeviceError>;

    /// Floating-point operations, for estimating its time.
    fn flops(&self) -> u64;

    /// The operand that may be [encoded](View::encoded) and is decoded as it is read; none by default. If any
    /// other operand is encoded, the operation is refused before its own check.
    fn decoded(&self) -> Option<&View<'_>> {
        None
    }

    /// Bytes that it reads, each operand once, in its stored encoding.
    fn bytes_read(&self) -> u64 {
        let mut bytes = 0;
        self.reads(&mut |view| bytes += view.stored_bytes());
        bytes
    }

    /// Bytes that it writes.
    fn bytes_written(&self) -> u64 {
        let mut bytes = 0;
        self.writes(&mut |view| bytes += view.meta().bytes());
        bytes
    }
}

impl Field for View<'_> {
    type At<'b> = View<'b>;

    /// The tensor, and its scales after it.
    fn reads(&self, f: &mut dyn FnMut(&View<'_>)) {
        f(self);
        self.scales().into_iter().for_each(|(values, _)| f(values));
    }

    fn at<'b>(&self, places: &mut dyn Places<'b>) -> Result<View<'b>, DeviceError> {
        let view = places.read(self)?;
        match self.scales() {
            Some((values, _)) => Ok(view.with_scales(places.read(values)?)),
            None => Ok(view),
        }
    }
}

impl Field for ViewMut<'_> {
    type At<'b> = ViewMut<'b>;

    fn writes(&self, f: &mut dyn FnMut(&ViewMut<'_>)) {
        f(self);
    }

    fn at<'b>(&self, places: &mut dyn Places<'b>) -> Result<ViewMut<'b>, DeviceError> {
        places.write(self.meta())
    }
}

impl<T: Field> Field for Option<T> {
    type At<'b> = Option<T::At<'b>>;

    fn reads(&self, f: &mut dyn FnMut(&View<'_>)) {
        self.iter().for_each(|field| field.reads(f));
    }

    fn writes(&self, f: &mut dyn FnMut(&ViewMut<'_>)) {
        self.iter().for_each(|field| field.writes(f));
    }

    fn at<'b>(&self, places: &mut dyn Places<'b>) -> Result<Self::At<'b>, DeviceError> {
        self.as_ref().map(|field| field.at(places)).transpose()
    }
}

impl<T: Field> Field for Vec<T> {
    type At<'b> = Vec<T::At<'b>>;

    fn reads(&self, f: &mut dyn FnMut(&View<'_>)) {
        self.iter().for_each(|field| field.reads(f));
    }

    fn writes(&self, f: &mut dyn FnMut(&ViewMut<'_>)) {
        self.iter().for_each(|field| field.writes(f));
    }

    fn at<'b>(&self, places: &mut dyn Places<'b>) -> Result<Self::At<'b>, DeviceError> {
        self.iter().map(|field| field.at(places)).collect()
    }
}

impl Field for Cow<'_, [u32]> {
    type At<'b> = Cow<'b, [u32]>;

    fn at<'b>(&self, _: &mut dyn Places<'b>) -> Result<Self::At<'b>, DeviceError> {
        Ok(Cow::Owned(self.to_vec()))
    }
}

/// Parameters, which do not depend on where the tensors are.
macro_rules! parameters {
    ($($type:ty),* $(,)?) => {$(
        impl $crate::ops::operation::Field for $type {
            type At<'b> = $type;

            fn at<'b>(
                &self,
                _: &mut dyn $crate::ops::operation::Places<'b>,
            ) -> Result<$type, $crate::DeviceError> {
                Ok(self.clone())
            }
        }
    )*};
}

parameters!(bool, f32, usize);

/// Declares an operation: a struct whose fields are each a [`Field`]. Its documentation begins with the formula.
macro_rules! operation {
    (
        $(#[doc = $doc:literal])*
        pub struct $name:ident<'a> {
            $($(#[$field_attribute:meta])* pub $field:ident: $type:ty,)*
        }
    ) => {
        $(#[doc = $doc])*
        #[derive(Debug)]
        #[non_exhaustive]
        pub struct $name<'a> {
            $($(#[$field_attribute])* pub $field: $type,)*
        }

        impl $name<'_> {
            /// Its documentation, whose first paragraph is the formula.
            pub(crate) const DOC: &'static str = concat!($($doc, "\n",)*);
        }

        impl $crate::ops::operation::Field for $name<'_> {
            type At<'b> = $name<'b>;

            fn reads(&self, f: &mut dyn FnMut(&$crate::View<'_>)) {
                $($crate::ops::operation::Field::reads(&self.$field, f);)*
            }

            fn writes(&self, f: &mut dyn FnMut(&$crate::ViewMut<'_>)) {
                $($crate::ops::operation::Field::writes(&self.$field, f);)*
            }

            fn at<'b>(
                &self,
                places: &mut dyn $crate::ops::operation::Places<'b>,
            ) -> Result<$name<'b>, $crate::DeviceError> {
                Ok($name { $($field: $crate::ops::operation::Field::at(&self.$field, places)?,)* })
            }
        }
    };
}

/// Makes [`Op`](super::Op) of a list of operations.
macro_rules! operations {
    ($($(#[$attribute:meta])* $module:ident::$name:ident,)*) => {
        $(pub use $module::$name;)*

        /// Any operation.
        #[derive(Debug)]
        #[non_exhaustive]
        pub enum Op<'a> {
            $($(#[$attribute])* $name($name<'a>),)*
        }

        $(impl<'a> From<$name<'a>> for Op<'a> {
            fn from(op: $name<'a>) -> Op<'a> {
                Op::$name(op)
            }
        })*

        impl Operation for Op<'_> {
            fn name(&self) -> &'static str {
                match self { $(Op::$name(op) => op.name(),)* }
            }

            fn check(&self) -> Result<(), DeviceError> {
                check::plain(self)?;
                match self { $(Op::$name(op) => op.check(),)* }
            }

            fn flops(&self) -> u64 {
                match self { $(Op::$name(op) => op.flops(),)* }
            }

            fn decoded(&self) -> Option<&View<'_>> {
                match self { $(Op::$name(op) => op.decoded(),)* }
            }

            fn bytes_read(&self) -> u64 {
                match self { $(Op::$name(op) => op.bytes_read(),)* }
            }
        }

        impl Field for Op<'_> {
            type At<'b> = Op<'b>;

            fn reads(&self, f: &mut dyn FnMut(&View<'_>)) {
                match self { $(Op::$name(op) => op.reads(f),)* }
            }

            fn writes(&self, f: &mut dyn FnMut(&ViewMut<'_>)) {
                match self { $(Op::$name(op) => op.writes(f),)* }
            }

            fn at<'b>(&self, places: &mut dyn Places<'b>) -> Result<Op<'b>, DeviceError> {
                Ok(match self { $(Op::$name(op) => Op::$name(op.at(places)?),)* })
            }
        }
    };
}

pub(super) use {operation, operations, parameters};
