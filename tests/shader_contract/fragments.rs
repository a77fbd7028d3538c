//! Traps of kernels that multiply fragments, which neither naga nor a driver reports.

use std::collections::BTreeSet;

use naga::proc::Layouter;
use naga::valid::{GlobalUse, ModuleInfo};
use naga::{
    AddressSpace, Barrier, Binding, Block, BuiltIn, EntryPoint, Expression, Function, GlobalVariable, Handle,
    Module, Statement, TypeInner,
};

/// Violations of the rules for kernels of matrix units in shaders/README.md.
pub fn traps(module: &Module, info: &ModuleInfo) -> Vec<String> {
    let mut wrong = misaligned(module);
    for point in &module.entry_points {
        wrong.extend(stored_counts(module, point));
    }
    let functions = module.functions.iter().map(|(_, function)| function);
    for function in functions.chain(module.entry_points.iter().map(|point| &point.function)) {
        wrong.extend(variables_in_loops(module, function));
        wrong.extend(late_operands(function));
        let mut handover = Handover { module, info, function, wrong: BTreeSet::new() };
        handover.block(&function.body, &mut Open::new(), &mut Open::new());
        wrong.extend(handover.wrong);
    }
    wrong
}

fn name(module: &Module, variable: Handle<GlobalVariable>) -> &str {
    module.global_variables[variable].name.as_deref().unwrap_or_default()
}

/// Variables in workgroup memory whose size isn't a multiple of 16 bytes.
fn misaligned(module: &Module) -> Vec<String> {
    let mut layouter = Layouter::default();
    layouter.update(module.to_ctx()).expect("types with a layout");
    let shared = module.global_variables.iter().filter(|(_, one)| one.space == AddressSpace::WorkGroup);
    let sizes = shared.map(|(handle, one)| (handle, layouter[one.ty].size));
    sizes
        .filter(|(_, size)| !size.is_multiple_of(16))
        .map(|(handle, size)| {
            format!("`{}` has {size} bytes: others behind it are misaligned", name(module, handle))
        })
        .collect()
}

/// Variables of fragments without a constant initial value. naga gives none to a variable in a loop: it stores the
/// value in every turn.
fn variables_in_loops(module: &Module, function: &Function) -> Vec<String> {
    let is_fragment = |mut ty| {
        while let TypeInner::Array { base, .. } = module.types[ty].inner {
            ty = base;
        }
        matches!(module.types[ty].inner, TypeInner::CooperativeMatrix { .. })
    };
    let variables = function.local_variables.iter().map(|(_, one)| one);
    variables
        .filter(|one| one.init.is_none() && is_fragment(one.ty))
        .map(|one| {
            let name = one.name.as_deref().unwrap_or_default();
            format!("`{name}` is a fragment: declare it outside of loops, with `= Sums()` or the like")
        })
        .collect()
}

/// The variable that a pointer points into.
fn root(function: &Function, mut pointer: Handle<Expression>) -> Option<Handle<GlobalVariable>> {
    loop {
        match function.expressions[pointer] {
            Expression::Access { base, .. } | Expression::AccessIndex { base, .. } => pointer = base,
            Expression::GlobalVariable(variable) => return Some(variable),
            _ => return None,
        }
    }
}

/// Calls `look` with every statement, in the order of the source.
fn each(block: &Block, look: &mut impl FnMut(&Statement)) {
    for statement in block {
        look(statement);
        match statement {
            Statement::Block(inner) => each(inner, look),
            Statement::If { accept, reject, .. } => {
                each(accept, look);
                each(reject, look);
            }
            Statement::Switch { cases, .. } => cases.iter().for_each(|case| each(&case.body, look)),
            Statement::Loop { body, continuing, .. } => {
                each(body, look);
                each(continuing, look);
            }
            _ => {}
        }
    }
}

/// Indices and strides of coopStore that naga computes only behind it, so that its back end panics.
fn late_operands(function: &Function) -> Vec<String> {
    let mut used = BTreeSet::new();
    let mut late = BTreeSet::new();
    each(&function.body, &mut |statement| match statement {
        Statement::CooperativeStore { data, .. } => {
            used.insert(data.stride);
            let mut pointer = data.pointer;
            while let Expression::Access { base, .. } | Expression::AccessIndex { base, .. } =
                function.expressions[pointer]
            {
                if let Expression::Access { index, .. } = function.expressions[pointer] {
                    used.insert(index);
                }
                pointer = base;
            }
        }
        Statement::Emit(range) => late.extend(range.clone().filter(|one| used.contains(one))),
        _ => {}
    });
    late.iter().map(|_| "index and stride of coopStore: make them `let`s".to_string()).collect()
}

/// Variables in workgroup memory that receive the number of subgroups, or a result of arithmetic with it.
fn stored_counts(module: &Module, point: &EntryPoint) -> Vec<String> {
    fn counts(function: &Function, value: Handle<Expression>) -> bool {
        match function.expressions[value] {
            Expression::FunctionArgument(at) => {
                function.arguments[at as usize].binding == Some(Binding::BuiltIn(BuiltIn::NumSubgroups))
            }
            Expression::As { expr, .. } | Expression::Unary { expr, .. } => counts(function, expr),
            Expression::Binary { left, right, .. } => counts(function, left) || counts(function, right),
            _ => false,
        }
    }
    let function = &point.function;
    let mut wrong = Vec::new();
    each(&function.body, &mut |statement| {
        if let Statement::Store { pointer, value } = *statement
            && let Some(variable) = root(function, pointer)
            && module.global_variables[variable].space == AddressSpace::WorkGroup
            && counts(function, value)
        {
            wrong.push(format!("`{}` in workgroup memory receives num_subgroups", name(module, variable)));
        }
    });
    wrong
}

/// Variables in workgroup memory with fragments that no barrier has handed over yet.
type Open = BTreeSet<Handle<GlobalVariable>>;

/// A walk along all paths of a function that finds reads of stored fragments without a workgroupBarrier between.
struct Handover<'a> {
    module: &'a Module,
    info: &'a ModuleInfo,
    function: &'a Function,
    wrong: BTreeSet<String>,
}

impl Handover<'_> {
    /// Walks along a block. Collects in `left` what is open where a path leaves the surrounding loop's body.
    fn block(&mut self, block: &Block, open: &mut Open, left: &mut Open) {
        for statement in block {
            match statement {
                Statement::CooperativeStore { data, .. } => {
                    let variable = root(self.function, data.pointer);
                    open.extend(variable.filter(|&variable| {
                        self.module.global_variables[variable].space == AddressSpace::WorkGroup
                    }));
                }
                Statement::ControlBarrier(barrier) if barrier.contains(Barrier::WORK_GROUP) => open.clear(),
                Statement::Emit(range) => {
                    for one in range.clone() {
                        let read = match &self.function.expressions[one] {
                            Expression::Load { pointer } => root(self.function, *pointer),
                            Expression::CooperativeLoad { data, .. } => root(self.function, data.pointer),
                            _ => None,
                        };
                        self.read(open, |variable| read == Some(variable));
                    }
                }
                Statement::Call { function, .. } => {
                    let uses = &self.info[*function];
                    self.read(open, |variable| uses[variable].contains(GlobalUse::READ));
                }
                Statement::Block(inner) => self.block(inner, open, left),
                Statement::If { accept, reject, .. } => self.either(&[accept, reject], open, left),
                Statement::Switch { cases, .. } => {
                    let cases: Vec<&Block> = cases.iter().map(|case| &case.body).collect();
                    self.either(&cases, open, left);
                }
                Statement::Loop { body, continuing, .. } => {
                    // Twice, from the end of the first turn to the start of the second.
                    for _ in 0..2 {
                        let mut inside = Open::new();
                        self.block(body, open, &mut inside);
                        self.block(continuing, open, &mut inside);
                        open.extend(inside);
                    }
                }
                Statement::Break | Statement::Continue => left.extend(open.iter()),
                _ => {}
            }
        }
    }

    /// Walks along blocks of which one runs.
    fn either(&mut self, blocks: &[&Block], open: &mut Open, left: &mut Open) {
        let before = std::mem::take(open);
        for block in blocks {
            let mut after = before.clone();
            self.block(block, &mut after, left);
            open.extend(after);
        }
    }

    fn read(&mut self, open: &Open, reads: impl Fn(Handle<GlobalVariable>) -> bool) {
        for &variable in open.iter().filter(|&&variable| reads(variable)) {
            let name = name(self.module, variable);
            self.wrong.insert(format!("`{name}` is read after coopStore without a workgroupBarrier"));
        }
    }
}
