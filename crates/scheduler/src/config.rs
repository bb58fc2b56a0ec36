//! Configurations: structs whose fields are diffusers' keys.

/// A configuration with the default of each key beside it, as Rust plans to have them (RFC 3681, "default field
/// values"). The documentation of a key ends with its default.
macro_rules! config {
    ($(#[$attribute:meta])* pub struct $name:ident {
        $($(#[$key_attribute:meta])* pub $key:ident: $type:ty = $default:expr,)*
    }) => {
        $(#[$attribute])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
        pub struct $name {
            $(
                $(#[$key_attribute])*
                #[doc = concat!("\n\nThe default is `", stringify!($default), "`.")]
                pub $key: $type,
            )*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($key: $default,)* }
            }
        }
    };
}

pub(crate) use config;
