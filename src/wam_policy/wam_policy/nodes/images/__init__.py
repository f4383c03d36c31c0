"""Images as messages: conversion to and from arrays, through cv_bridge."""
