//! Names, visits and counts of module trees.

use vram_alloc::{Module, Parameter, Path, Visitor, counts, module, parameter_names, skip_init, walk};

use crate::models::{ControlNet, Linear, Lm, RmsNorm};

#[test]
fn names_are_those_of_pytorch() {
    let net = skip_init(|| ControlNet::new(2, 8, 4)).unwrap();
    let block = |i: usize| {
        [
            "x_rms.weight",
            "y_rms.weight",
            "input_proj.weight",
            "input_proj.bias",
            "output_proj.weight",
            "output_proj.bias",
        ]
        .map(|name| format!("controlnet_blocks.{i}.{name}"))
    };
    let mut expected = vec!["img_in.weight".to_owned(), "img_in.bias".to_owned()];
    expected.extend(block(0));
    expected.extend(block(1));
    assert_eq!(parameter_names(&net), expected);
    let lm = ["embed.weight", "inv_freq", "position_ids", "scale", "norm.weight", "lm_head.weight"];
    assert_eq!(parameter_names(&skip_init(Lm::new).unwrap()), lm);
}

#[test]
fn modules_are_entered_and_left_in_order_with_their_own_types() {
    struct Trace(Vec<String>, usize);
    impl<'a> Visitor<'a> for Trace {
        fn enter_module(&mut self, path: &Path, module: &'a dyn Module) {
            self.0.push(format!("+{path}:{}", module.kind()));
            self.1 += usize::from(module.downcast_ref::<RmsNorm>().is_some());
        }
        fn leave_module(&mut self, path: &Path, module: &'a dyn Module) {
            self.0.push(format!("-{path}:{}", module.kind()));
        }
        fn parameter(&mut self, path: &Path, _parameter: &'a Parameter) {
            self.0.push(path.as_str().to_owned());
        }
    }
    let lm = skip_init(Lm::new).unwrap();
    let mut trace = Trace(Vec::new(), 0);
    walk(&lm, &mut trace);
    let expected = "+:Lm embed.weight inv_freq position_ids scale +norm:RmsNorm norm.weight -norm:RmsNorm \
                    +lm_head:Linear lm_head.weight -lm_head:Linear -:Lm";
    assert_eq!(trace.0.join(" "), expected);
    assert_eq!(trace.1, 1, "a boxed module is seen as itself");
}

struct Flat {
    inner: Linear,
    grid: [Vec<Linear>; 2],
    none: Option<RmsNorm>,
}
module! { Flat { inner as "", grid, none } }

#[test]
fn empty_names_lists_of_lists_and_absent_fields() {
    let linear = || skip_init(|| Linear::new(2, 2, false)).unwrap();
    let flat = Flat { inner: linear(), grid: [vec![linear()], vec![linear(), linear()]], none: None };
    let expected = ["weight", "grid.0.0.weight", "grid.1.0.weight", "grid.1.1.weight"];
    assert_eq!(parameter_names(&flat), expected);
}

#[test]
fn counts_by_module_and_dtype_with_tied_weights_once() {
    let lm = skip_init(Lm::new).unwrap();
    let c = counts(&lm);
    assert_eq!((c.weights.tensors, c.weights.elements, c.weights.bytes), (2, 28, 24 * 4 + 4 * 2));
    assert_eq!((c.buffers.tensors, c.buffers.bytes), (3, 8 + 64 + 4));
    assert_eq!(c.meta.tensors, 4, "all but the computed buffer");
    let modules: Vec<_> =
        c.modules.iter().map(|m| (m.path.as_str(), m.kind, m.depth, m.total.tensors)).collect();
    assert_eq!(modules, [("", "Lm", 0, 5), ("norm", "RmsNorm", 1, 1), ("lm_head", "Linear", 1, 0)]);
    assert_eq!(
        c.to_string(),
        "module   kind     tensors         elements        size\n\
         (all)    Lm             5               39       180 B\n\
         norm     RmsNorm        1                4         8 B\n\
         lm_head  Linear         0                0         0 B\n\
         BF16                    1                4         8 B\n\
         F32                     3               27       108 B\n\
         I64                     1                8        64 B"
    );
}
