"""Tell whether two texts of a module compute the same, whatever it is called, imports, explains or annotates."""

from __future__ import annotations

import ast


def formula(source: str) -> str:
    """Return what a module computes as text: without comments, docstrings, imports, annotations, error messages,
    bases and decorators of classes.

    Of `module.name`, where an import brought `module`, only `name` is left, so that a module may move.
    """
    tree = ast.parse(source)
    imported = {
        (alias.asname or alias.name).partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    return ast.unparse(_Bare(imported).visit(tree))


class _Bare(ast.NodeTransformer):
    """Take out of a module what changes nothing that it computes."""

    def __init__(self, imported: set[str]) -> None:
        self.imported = imported

    def visit_Import(self, node: ast.Import) -> None: ...
    def visit_ImportFrom(self, node: ast.ImportFrom) -> None: ...

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        """Drop a text that stands alone: a docstring."""
        alone = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if alone else self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        """Leave out the module before a name."""
        if isinstance(node.value, ast.Name) and node.value.id in self.imported:
            return ast.Name(node.attr, node.ctx)
        return self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        """Leave out what a class inherits and how it is registered."""
        node.bases, node.keywords, node.decorator_list = [], [], []
        return self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        """Leave out what an error says."""
        return ast.Raise()

    def visit_arg(self, node: ast.arg) -> ast.AST:
        """Leave out an argument's type."""
        return ast.arg(node.arg)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        """Leave out a variable's type; a field without a value stays a field."""
        return ast.AnnAssign(node.target, ast.Constant(None), node.value and self.visit(node.value), node.simple)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """Leave out what a function returns."""
        node.returns = None
        return self.generic_visit(node)
