"""Views of Django REST framework that lose their connection; a URLconf."""

from __future__ import annotations

from django.db import Error
from django.urls import path
from rest_framework.decorators import api_view, authentication_classes, permission_classes
from rest_framework.exceptions import APIException
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView
from rest_framework.viewsets import ViewSet

from django_resilient_pg.decorators import not_replayable, replayable
from tests.server.request_views import create, lose_while_writing, lost_reads


class Open:
    """No users here."""

    authentication_classes = ()
    permission_classes = ()


class Rest(Open, APIView):
    def get(self, request: Request) -> Response:
        return Response(lost_reads("rest"))

    @replayable
    def post(self, request: Request) -> Response:
        lose_while_writing("rest", request.data["name"])
        return Response(request.data["name"])

    def put(self, request: Request) -> Response:
        lose_while_writing("rest", request.data["name"])
        return Response("never")


class RestSet(Open, ViewSet):
    def list(self, request: Request) -> Response:
        return Response(lost_reads("rest_set"))

    @replayable
    def create(self, request: Request) -> Response:
        lose_while_writing("rest_set", request.data["name"])
        return Response(request.data["name"])


class Answered(Open, APIView):
    """The loss becomes an answer of DRF's: ``set_rollback()``, no exception."""

    def get(self, request: Request) -> Response:
        create("never")
        try:
            return Response(lost_reads("answered"))
        except Error as error:
            raise APIException("sorry") from error


@api_view(["GET"])
@authentication_classes([])
@permission_classes([])
def function(request: Request) -> Response:
    return Response(lost_reads("function"))


@api_view(["GET", "POST"])
@not_replayable
@authentication_classes([])
@permission_classes([])
def kept_from_it(request: Request) -> Response:
    return Response(lost_reads("kept_from_it"))


@api_view(["POST"])
@authentication_classes([])
@permission_classes([])
@replayable
def allowed(request: Request) -> Response:
    lose_while_writing("allowed", "joe")
    return Response("allowed")


@replayable
@api_view(["POST"])
@not_replayable
@authentication_classes([])
@permission_classes([])
def contradicting(request: Request) -> Response:
    return Response(lost_reads("contradicting"))


class Kept(Open, ViewSet):
    @not_replayable
    def list(self, request: Request) -> Response:
        return Response(lost_reads("kept"))


urlpatterns = [
    path("kept_from_it/", kept_from_it),
    path("allowed/", allowed),
    path("contradicting/", contradicting),
    path("kept/", Kept.as_view({"get": "list"})),
    path("rest/", Rest.as_view()),
    path("rest_set/", RestSet.as_view({"get": "list", "post": "create"})),
    path("answered/", Answered.as_view()),
    path("function/", function),
]
