//! Traps of kernels that multiply fragments, which neither naga nor a driver reports.

use std::collections::BTreeSet;

use naga::proc::Layouter;
use naga::{
    AddressSpace, Barrier, Binding, Block, BuiltIn, EntryPoint, Expression, Function, GlobalVariable, Handle,
    Module, Statement,
};

/// Violations of the rules for kernels of matrix units in shaders/README.md.
pub fn traps(source: &str, module: &Module) -> Vec<String> {
    let mut wrong = misaligned(module);
    wrong.extend(values_in_loops(source));
    for point in &module.entry_points {
        wrong.extend(stored_counts(module, point));
        let mut handover = Handover { module, wrong: BTreeSet::new() };
        handover.function(&point.function, &mut Open::new());
        wrong.extend(handover.wrong);
    }
    let functions = module.functions.iter().map(|(_, function)| function);
    for function in functions.chain(module.entry_points.iter().map(|point| &point.function)) {
        wrong.extend(late_operands(function));
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

/// Fragments in variables with the initial value zero, in a loop. Expects one statement per line.
fn values_in_loops(source: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    // True for each open brace that begins the body of a loop.
    let mut open: Vec<bool> = Vec::new();
    for line in source.lines().map(|line| line.split("//").next().unwrap_or_default().trim()) {
        let value = line.split_once('=').filter(|_| line.starts_with("var ")).map(|(_, value)| value.trim());
        let types = ["Left", "Right", "Sums", "coop_mat"];
        let is_zero = |value: &str| {
            value.ends_with("();")
                && types.iter().any(|ty| value.trim_start_matches("array<").starts_with(ty))
        };
        if open.contains(&true) && value.is_some_and(is_zero) {
            wrong.push(format!("`{line}` in a loop: declare it without a value, and assign one"));
        }
        let is_loop = ["for ", "while ", "loop "].iter().any(|head| line.starts_with(head));
        for brace in line.chars() {
            match brace {
                '{' => open.push(is_loop),
                '}' => drop(open.pop()),
                _ => {}
            }
        }
    }
    wrong
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

/// Operands of coopStore that naga computes only behind it, so that its back end panics.
fn late_operands(function: &Function) -> Vec<String> {
    let mut used = BTreeSet::new();
    let mut late = BTreeSet::new();
    each(&function.body, &mut |statement| match statement {
        Statement::CooperativeStore { target, data } => {
            used.extend([*target, data.stride]);
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
    late.iter().map(|_| "operands of coopStore: make them `let`s".to_string()).collect()
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

/// A walk along all paths of an entry point, that finds reads of stored fragments without a workgroupBarrier between.
/// It doesn't follow pointers to workgroup memory in arguments.
struct Handover<'a> {
    module: &'a Module,
    wrong: BTreeSet<String>,
}

impl Handover<'_> {
    fn function(&mut self, function: &Function, open: &mut Open) {
        let mut left = Open::new();
        self.block(function, &function.body, open, &mut left);
        open.extend(left);
    }

    /// Walks along a block. Collects in `left` what is open where a path leaves the surrounding loop or the function.
    fn block(&mut self, function: &Function, block: &Block, open: &mut Open, left: &mut Open) {
        for statement in block {
            match statement {
                Statement::CooperativeStore { data, .. } => {
                    let variable = root(function, data.pointer);
                    open.extend(variable.filter(|&variable| {
                        self.module.global_variables[variable].space == AddressSpace::WorkGroup
                    }));
                }
                Statement::ControlBarrier(barrier) if barrier.contains(Barrier::WORK_GROUP) => open.clear(),
                // It has a barrier before and behind it.
                Statement::WorkGroupUniformLoad { .. } => open.clear(),
                Statement::Emit(range) => {
                    let read = range.clone().filter_map(|one| match &function.expressions[one] {
                        Expression::Load { pointer } => root(function, *pointer),
                        Expression::CooperativeLoad { data, .. } => root(function, data.pointer),
                        _ => None,
                    });
                    for variable in read.filter(|variable| open.contains(variable)) {
                        let name = name(self.module, variable);
                        self.wrong
                            .insert(format!("`{name}` is read after coopStore without a workgroupBarrier"));
                    }
                }
                Statement::Call { function, .. } => self.function(&self.module.functions[*function], open),
                Statement::Block(inner) => self.block(function, inner, open, left),
                Statement::If { accept, reject, .. } => self.either(function, &[accept, reject], open, left),
                Statement::Switch { cases, .. } => {
                    let cases: Vec<&Block> = cases.iter().map(|case| &case.body).collect();
                    self.either(function, &cases, open, left);
                }
                Statement::Loop { body, continuing, .. } => {
                    // Twice, from the end of the first turn to the start of the second.
                    for _ in 0..2 {
                        let mut inside = Open::new();
                        self.block(function, body, open, &mut inside);
                        self.block(function, continuing, open, &mut inside);
                        open.extend(inside);
                    }
                }
                Statement::Break | Statement::Continue | Statement::Return { .. } => left.extend(open.iter()),
                _ => {}
            }
        }
    }

    /// Walks along blocks of which one runs.
    fn either(&mut self, function: &Function, blocks: &[&Block], open: &mut Open, left: &mut Open) {
        let before = std::mem::take(open);
        for block in blocks {
            let mut after = before.clone();
            self.block(function, block, &mut after, left);
            open.extend(after);
        }
    }
}
