"""The forms for colleagues: who may work here, and as what."""

from typing import Any

from django import forms
from django.contrib.auth.forms import AdminUserCreationForm, UserChangeForm
from django.contrib.auth.models import Group, User
from django.utils.translation import gettext_lazy as _

from . import roles


class RolesField(forms.ModelMultipleChoiceField):
    """Roles to tick, each with what it allows."""

    widget = forms.CheckboxSelectMultiple

    def label_from_instance(self, group: Any) -> str:
        """The name of a role and, of a built-in one, what it allows."""
        return f"{group.name}: {roles.TEXTS[group.name]}" if group.name in roles.TEXTS else str(group.name)


class NewColleague(AdminUserCreationForm):
    """Asks for all that a new colleague needs. Whoever has a role may log in to the back office."""

    groups = RolesField(
        Group.objects.order_by("pk"),
        label=_("Roles"),
        help_text=_("Operator includes viewer, and manager includes operator."),
    )

    class Meta(AdminUserCreationForm.Meta):
        model = User
        fields = ("username", "first_name", "last_name", "email", "groups")

    def save(self, commit: bool = True) -> User:
        """Make the user, who may log in to the back office."""
        self.instance.is_staff = True
        return super().save(commit)


class Colleague(UserChangeForm):
    """The fields of a colleague."""

    groups = RolesField(Group.objects.order_by("pk"), label=_("Roles"), required=False)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "is_staff" in self.fields:
            self.fields["is_staff"].label = _("May log in here")
            self.fields["is_staff"].help_text = ""
