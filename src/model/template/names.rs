//! Whether everything that a template names is there. The engine finds out only once it gets there, for some agent.

use std::collections::HashSet;

use minijinja::{
    Environment, State, Value,
    machinery::{
        Span,
        ast::{CallArg, Expr, Stmt},
        parse,
    },
};

use super::{NAME, NAMES, Problem, problem, syntax};

/// The first name, filter or test that is not known, in the order of the text.
pub fn check(source: &str, environment: &Environment<'_>) -> Result<(), Problem> {
    let template = parse(source, NAME, syntax()).map_err(|error| problem(source, &error))?;
    let mut names = Names { declared: NAMES.into(), used: Vec::new() };
    names.statement(&template);
    let Names { declared, mut used } = names;
    used.sort_by_key(|used| used.at.start_offset);
    let mut state = environment.empty_state();
    match used.iter().find(|used| !used.is_known(&declared, &mut state)) {
        Some(used) => Err(Problem::at(source, used.at.start_offset as usize, &used.problem())),
        None => Ok(()),
    }
}

struct Names<'a> {
    /// Those that a template may use, and those that it makes, anywhere in it: where they are not there yet is found when it
    /// is filled in.
    declared: HashSet<&'a str>,
    used: Vec<Used<'a>>,
}

struct Used<'a> {
    what: What,
    name: &'a str,
    at: Span,
}

#[derive(Clone, Copy)]
enum What {
    Name,
    Filter,
    Test,
    Statement,
}

impl Used<'_> {
    fn is_known(&self, declared: &HashSet<&str>, state: &mut State<'_, '_>) -> bool {
        let mut is = |test: &str| state.perform_test(test, &[Value::from(self.name)]).unwrap_or(false);
        match self.what {
            What::Name => declared.contains(self.name),
            What::Filter => is("filter"),
            What::Test => is("test"),
            What::Statement => false,
        }
    }

    fn problem(&self) -> String {
        let name = self.name;
        match self.what {
            What::Name => format!("unknown name {name:?}: templates know {}", NAMES.join(", ")),
            What::Filter => format!("unknown filter {name:?}"),
            What::Test => format!("unknown test {name:?}"),
            What::Statement => format!("unknown statement {name}"),
        }
    }
}

impl<'a> Names<'a> {
    fn statements(&mut self, statements: &[Stmt<'a>]) {
        statements.iter().for_each(|statement| self.statement(statement));
    }

    fn statement(&mut self, statement: &Stmt<'a>) {
        match statement {
            Stmt::Template(template) => self.statements(&template.children),
            Stmt::EmitExpr(emit) => self.expression(&emit.expr),
            Stmt::EmitRaw(_) => {}
            Stmt::ForLoop(each) => {
                self.declared.insert("loop");
                self.declare(&each.target);
                self.expression(&each.iter);
                self.perhaps(each.filter_expr.as_ref());
                self.statements(&each.body);
                self.statements(&each.else_body);
            }
            Stmt::IfCond(condition) => {
                self.expression(&condition.expr);
                self.statements(&condition.true_body);
                self.statements(&condition.false_body);
            }
            Stmt::WithBlock(with) => {
                for (target, value) in &with.assignments {
                    self.declare(target);
                    self.expression(value);
                }
                self.statements(&with.body);
            }
            Stmt::Set(set) => {
                self.declare(&set.target);
                self.expression(&set.expr);
            }
            Stmt::SetBlock(set) => {
                self.declare(&set.target);
                self.perhaps(set.filter.as_ref());
                self.statements(&set.body);
            }
            Stmt::FilterBlock(block) => {
                self.expression(&block.filter);
                self.statements(&block.body);
            }
            Stmt::AutoEscape(block) => self.refuse("autoescape", block.span()),
            Stmt::Do(statement) => self.refuse("do", statement.span()),
        }
    }

    fn refuse(&mut self, name: &'static str, at: Span) {
        self.used.push(Used { what: What::Statement, name, at });
    }

    /// Names on the left side of an assignment.
    fn declare(&mut self, target: &Expr<'a>) {
        match target {
            Expr::Var(name) => drop(self.declared.insert(name.id)),
            Expr::List(list) => list.items.iter().for_each(|item| self.declare(item)),
            Expr::Tuple(tuple) => tuple.items.iter().for_each(|item| self.declare(item)),
            other => self.expression(other),
        }
    }

    fn perhaps(&mut self, expression: Option<&Expr<'a>>) {
        if let Some(expression) = expression {
            self.expression(expression);
        }
    }

    fn arguments(&mut self, arguments: &[CallArg<'a>]) {
        for argument in arguments {
            match argument {
                CallArg::Pos(value)
                | CallArg::Kwarg(_, value)
                | CallArg::PosSplat(value)
                | CallArg::KwargSplat(value) => self.expression(value),
            }
        }
    }

    fn expression(&mut self, expression: &Expr<'a>) {
        match expression {
            Expr::Var(name) => self.used.push(Used { what: What::Name, name: name.id, at: name.span() }),
            Expr::Const(_) => {}
            Expr::Slice(slice) => {
                self.expression(&slice.expr);
                [&slice.start, &slice.stop, &slice.step].into_iter().for_each(|part| self.perhaps(part.as_ref()));
            }
            Expr::UnaryOp(operation) => self.expression(&operation.expr),
            Expr::BinOp(operation) => {
                self.expression(&operation.left);
                self.expression(&operation.right);
            }
            Expr::Compare(compare) => {
                self.expression(&compare.expr);
                compare.ops.iter().for_each(|operation| self.expression(&operation.expr));
            }
            Expr::IfExpr(condition) => {
                self.expression(&condition.test_expr);
                self.expression(&condition.true_expr);
                self.perhaps(condition.false_expr.as_ref());
            }
            Expr::Filter(filter) => {
                self.perhaps(filter.expr.as_ref());
                self.used.push(Used { what: What::Filter, name: filter.name, at: filter.span() });
                self.arguments(&filter.args);
            }
            Expr::Test(test) => {
                self.expression(&test.expr);
                self.used.push(Used { what: What::Test, name: test.name, at: test.span() });
                self.arguments(&test.args);
            }
            Expr::GetAttr(get) => self.expression(&get.expr),
            Expr::GetItem(get) => {
                self.expression(&get.expr);
                self.expression(&get.subscript_expr);
            }
            Expr::Call(call) => {
                self.expression(&call.expr);
                self.arguments(&call.args);
            }
            Expr::List(list) => list.items.iter().for_each(|item| self.expression(item)),
            Expr::Tuple(tuple) => tuple.items.iter().for_each(|item| self.expression(item)),
            Expr::Map(map) => map.keys.iter().chain(&map.values).for_each(|part| self.expression(part)),
        }
    }
}
